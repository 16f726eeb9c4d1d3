"""Generators of the documentation's tables, from the code and the chart."""
