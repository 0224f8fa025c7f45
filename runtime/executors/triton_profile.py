"""When each launch of a step began on the GPU: events between launches, which then don't overlap.

In: the plan of a program on a device. Out: for every step that runs meanwhile, its launches in
order with their times. A step is launched kernel by kernel then, not as a graph; what a launch
takes counts from the end of the one before, the gap between both included.
"""

from collections.abc import Callable

from ...artifact.launch_plan import NO_KERNEL, Launch, LaunchPlan
from .cpu_profile import END, Kernel, Traffic
from .gpu_device import Event, GpuDevice


class LaunchProfiler:
    """Notes the launches of the steps between `start` and `stop`. `kernels`: by numbers of
    launches; `watch` tells the executor whom to call before each launch, or None."""

    def __init__(
        self,
        gpu: GpuDevice,
        plan: LaunchPlan,
        watch: Callable[[Callable[[int], None] | None], None],
    ) -> None:
        self._gpu, self._watch = gpu, watch
        self.kernels = tuple(_kernel(plan, launch) for launch in plan.launches)
        self._events: list[Event] = []
        self._numbers: list[int] = []

    def start(self) -> None:
        """From here on launches are noted."""
        self._numbers = []
        self._watch(self._mark)

    def _mark(self, number: int) -> None:
        if len(self._numbers) == len(self._events):
            self._events.append(self._gpu.create_event(timed=True))
        self._gpu.record(self._events[len(self._numbers)])
        self._numbers.append(number)

    def stop(self) -> list[tuple[int, int]]:
        """(launch, nanoseconds since the first one) in order, `END` behind the last; no more are
        noted. Waits for the GPU. Errors: E0722."""
        self._watch(None)
        if not self._numbers:
            return []
        self._gpu.attach()
        self._mark(END)
        self._gpu.synchronize()
        times = [self._gpu.elapsed(self._events[0], event) for event in self._events]
        return [
            (number, round(seconds * 1e9))
            for number, seconds in zip(self._numbers, times, strict=False)
        ]


def _kernel(plan: LaunchPlan, launch: Launch) -> Kernel:
    """A launch as a row of a profile. Its label is what it does, and the module that it is from."""
    used = [form.kernel for form in launch.forms if form.kernel != NO_KERNEL]
    name = plan.kernels[used[0]].name if used else launch.label
    traffic = tuple(Traffic(t.nbytes, t.unit, t.most) for t in launch.traffic)
    return Kernel(name, launch.label.partition(" ")[2], traffic)
