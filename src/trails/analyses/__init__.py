"""Questions to many chains: overlaps, map, gaps, bridges, capture, drift, and the statistics that their controls rest on."""
