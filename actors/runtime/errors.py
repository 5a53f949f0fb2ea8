"""The errors a runtime raises: one hierarchy, so that callers can tell a refusal from a broken node.

Knows nothing of processes, containers or events.
"""


class RuntimeFault(Exception):
    """Base of everything the runtime package raises. Its message says what was expected, what was found, what to do."""


class InvalidSpec(RuntimeFault):
    """The instance's description cannot be run as it stands; starting it again changes nothing."""


class InstanceNotFound(RuntimeFault):
    """No instance of that id is on this node."""


class InstanceStillRunning(RuntimeFault):
    """The instance must be stopped before what was asked for can be done."""


class StartFailed(RuntimeFault):
    """The instance could not be brought up; calling `start` again with the same spec is safe."""


class NodeNotUsable(RuntimeFault):
    """The node's directories or ranges do not allow instances to run; an operator must act."""
