"""Write: the trace store (Parquet shards, the truth) and the graph stores (Cypher, an index that can be rebuilt)."""
