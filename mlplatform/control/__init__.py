"""The control plane: one verb a command, each a chain of flows. The public Python API.

>>> from mlplatform import Platform                                  # doctest: +SKIP
>>> Platform.open().promote("churn@7", "staging", "first try")       # doctest: +SKIP
"""

from mlplatform.control.looking import EndpointState as EndpointState
from mlplatform.control.platform import Loop as Loop
from mlplatform.control.platform import Platform as Platform
