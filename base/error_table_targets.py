"""Ids of what can go wrong with targets that bring a runtime of their own."""

from .error_info import ErrorInfo

TARGET_ERRORS: dict[str, ErrorInfo] = {
    "LLMC-E0231": ErrorInfo(
        "the target can't compute in this scheme",
        "The target has no kernels or operators for these weights, activations or this cache. llmc "
        "doesn't replace them by others without being asked.",
        "docs/compatibility.md says which schemes each target has",
    ),
    "LLMC-E0241": ErrorInfo(
        "the program can't tell what its kernels take",
        "`llmc bench --profile` needs a program that notes when each of its kernels begins. Those "
        "of targets cpu and triton do, if this version or a later one compiled them; other targets "
        "run in runtimes that have profilers of their own.",
        "compile for target cpu or triton, or use the profiler of the target's own runtime",
    ),
    "LLMC-E0513": ErrorInfo(
        "a package has another version than the program was made for",
        "The artifact names the versions of the runtime that it runs with.",
        "install that version, or compile the artifact again",
    ),
    "LLMC-E0514": ErrorInfo(
        "no GPU here that the program is for",
        "A TensorRT engine and a set of Triton kernels name the GPUs that they were built for, by "
        "compute capability; this machine has none of them, or no driver that is new enough. "
        "Kernels of target triton for SM90 and later run on exactly that SM, those for SM80 to SM89 "
        "on later ones of these, too; they need a driver that knows CUDA 12.3. TensorRT for RTX "
        "doesn't build for SM90 and SM100.",
        "compile with --sm for this machine's GPU, which `nvidia-smi` names (several: --sm 80,90), or "
        "update its driver",
    ),
    "LLMC-E0720": ErrorInfo(
        "TensorRT refused the model",
        "The message is TensorRT's own, with the path of the layer in the source model where it "
        "names one. Often a GPU that was asked for can't do what the scheme needs.",
        "try other GPUs (--sm) or another scheme; report it if you think that it should work",
    ),
    "LLMC-E0722": ErrorInfo(
        "the GPU failed while the model ran",
        "A copy or a run on the GPU was refused, or the GPU reported an error of an earlier one. "
        "Nothing that was under way can be trusted; the process should be started again.",
        "see what the driver says (nvidia-smi, the system's log); report it if it happens again",
    ),
}
