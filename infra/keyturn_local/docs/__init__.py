"""Generators of the tables in the documentation. They read the code and the chart."""
