"""Tools around ALFWorld: export, reports, and the original engine for comparison."""
