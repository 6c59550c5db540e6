"""Worlds so small that every expectation is a finite sum, for exact tests of a method."""
