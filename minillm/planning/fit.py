"""Makes the laws again: ``python -m minillm.planning.fit large=FILES`` trains what is missing in trials.csv, then fits.

Without words it fits what trials.csv has. ``NAME=PATH`` says where a text is that a trial names; the sample is at hand.
"""
