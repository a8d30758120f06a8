"""What is measured, and how: CPU microseconds of the gateway's whole process tree per request, medians, ratios."""
