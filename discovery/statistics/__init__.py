"""Is a circuit right? Statistics of scores, stability of edges, random circuits to compare with."""
