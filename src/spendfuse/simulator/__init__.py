"""A provider that speaks OpenAI's API and Anthropic's, invents its answers and keeps its own bill.

The demo, the drill, tests and users' trials run on it. It shares no arithmetic
with the gateway: what it counts and what it charges is written down a second
time here, from the vendors' published rules, so that agreement means something.
"""
