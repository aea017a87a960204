"""The wire-exactness suite: whether a forwarder carries TCP as if it were not there.

Two halves that know nothing of `pt`, so that any forwarder (ours, `ssh -L`, `socat`, none at all)
can stand between them:

- `serve` starts the service side: one line of command on each connection says how to behave;
- `run_case` drives one case through HOST:PORT and judges it, `CASES` names them in order.

Plain blocking sockets and threads on purpose: what is judged is what the kernel tells an ordinary
program (bytes, FIN, RST, when it blocks). `python -m pt.tunnel.selftest` runs either half alone.
"""

from __future__ import annotations

from pt.tunnel.selftest.cases import CASES, CaseResult, run_case
from pt.tunnel.selftest.service import CaseServer, serve

__all__ = ["CASES", "CaseResult", "CaseServer", "run_case", "serve"]
