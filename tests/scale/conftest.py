"""What the tests of scale share with those of the command line."""

from tests.cli.conftest import chains_file, trails

__all__ = ["chains_file", "trails"]
