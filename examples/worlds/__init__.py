"""Worlds so small that every expectation over them is a finite sum, to prove a method of your own by."""
