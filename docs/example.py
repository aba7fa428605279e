"""A walk through a home from Python: python docs/example.py HOME FOLDER

HOME is a folder that trails ingest filled; FOLDER takes the report and the graph.
"""

import sys
from pathlib import Path

import networkx as nx

import trails
from trails.report.terminal import alternatives

place, folder = sys.argv[1], Path(sys.argv[2])
folder.mkdir(exist_ok=True)
with trails.Home(place) as home:
    # where does the model stumble, and what did it expect there?
    worst = home.query("most-surprising", limit=1).dicts()[0]
    trace = home.trace(worst["chain"])
    expected = [f"{text!r} {log_p:.2f}" for _, text, log_p in alternatives(trace)[worst["position"]]]
    print(f"{worst['piece']!r} cost {worst['surprisal']:.2f} nats; expected, ln p: {', '.join(expected)}")

    # where do chains meet? The verdict, and every score with its control
    found = home.overlaps(min_tokens=5, write=False).report()
    print(found.verdict)
    for score in found.scores:
        print(score.name, round(score.value, 4), "control:", score.controls[0].name, round(score.controls[0].value, 4))

    # one chain as a graph, and everything as one page
    home.export_graph(f"chain:{trace.chain.id}", folder / "chain.graphml", overwrite=True)
    home.write_report(to=folder / "report.html", overwrite=True)

graph = nx.read_graphml(folder / "chain.graphml")
print(f"{len(graph.nodes)} nodes and {len(graph.edges)} relationships of chain {trace.chain.id}")
print(f"{(folder / 'report.html').stat().st_size:,} bytes of report")
