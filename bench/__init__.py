"""Measurements of `pt` beside other forwarders; `make bench` writes RESULTS.md."""
