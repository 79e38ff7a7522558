"""The report: reads run folders, computes nothing that was not evaluated, imports no torch."""
