"""`distmap-relay`: where a pool and its workers meet when neither can reach the other.

It imports `core/limits.py` and the texts of `wire/relaying.py`, and nothing that knows a token or a session. Begin with
`relay.py`: `Relay._serve` is the way of one connection.
"""
