"""What the engine keeps: ``layout`` (open it first: every row by its fields), ``views`` (how kernels see them), ``grow`` (their memory).

``index`` is the compiled open addressing of entries and groups, ``ids`` the arena of what they are called, ``ranges`` the rows of tables
that are used again, ``memory`` what all this takes, and whether more may be taken.
"""
