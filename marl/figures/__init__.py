"""Plots, films and the HTML page that holds them."""
