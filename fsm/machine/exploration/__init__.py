"""Exhaustive exploration: the machine against every abstract host, every crash and every accident.

``hosts`` holds what hosts do, ``effects`` what actions do to them, ``engine`` the loop around the machine,
``environment`` what happens by itself or by somebody else, ``invariants`` what must hold, ``search`` the
search, ``calm`` what follows once accidents stop, ``mutants`` the proof that all this finds faults.
"""
