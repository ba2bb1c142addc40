"""The reference trainer: what a recipe (TOML) says, trained. `bfo-diag run` trains one, a sweep many.

`reading` reads the `recipe`, without torch; `loop` trains; a `checkpoint` lets another run go on.
"""
