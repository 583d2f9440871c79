"""Measurements side by side, on two real hosts: this project against what people use today.

``./dev bench`` runs it. Every round runs every contender once with every image, each time with a guest made
anew in the same way, and every round in another order, so that what the machine does besides disturbs all of
them alike.
"""
