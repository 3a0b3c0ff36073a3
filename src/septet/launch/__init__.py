"""Command line, run directories, ledger, report and benchmarks."""
