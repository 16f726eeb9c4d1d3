"""A hostile tenant as a program, and the tools that measure how his neighbour fares beside him.

``tenant.py`` is the program. It acts with the rights that ``edit`` gives in one namespace, and with ``attacks.py`` as
its list of attacks. ``aws.py`` imitates an AWS that hangs, throttles or refuses for some of the regions, secrets and
roles that the tenant names. ``neighbour.py`` is the team whose rotations are measured meanwhile.
"""
