"""What the tests of scale share with those of the command line and of the experiments."""

from tests.cli.conftest import chains_file, trails
from tests.experiments.conftest import tiny_folder

__all__ = ["chains_file", "tiny_folder", "trails"]
