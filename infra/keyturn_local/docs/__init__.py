"""Tables of the documentation, generated from the code and the chart."""
