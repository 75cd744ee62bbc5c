"""The parts of `bench/run`: a server, data, measuring, tools, checks, the report."""
