"""A hostile tenant as a program, and what a test needs to judge it by its neighbour.

``tenant.py`` is the program. It acts with the rights that ``edit`` gives in one namespace, and with ``attacks.py`` as
its list of attacks. ``aws.py`` imitates an AWS in which some of what he names hangs, is throttled or is refused.
``neighbour.py`` is the team whose rotations are measured meanwhile.
"""
