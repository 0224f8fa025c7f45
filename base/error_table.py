"""The table of error ids: what each means and what to do about it.

An id is `LLMC-E<cc><nn>`: `cc` is the exit code of the command, `nn` counts within it. An id never
changes its meaning and is never used again once it is gone. `llmc explain ID` prints a row of the
table. Rows are sorted by id, and every id that the tree raises has a row (a test checks both).
"""

from .error_info import ErrorInfo
from .error_table_serving import SERVING_ERRORS
from .error_table_targets import TARGET_ERRORS

_GENERAL_ERRORS: dict[str, ErrorInfo] = {
    "LLMC-E0100": ErrorInfo(
        "internal error",
        "Something happened that llmc doesn't expect. It is a defect in llmc, not in your input.",
        "run again with LLMC_DEBUG=1 and report the traceback",
    ),
    "LLMC-E0101": ErrorInfo(
        "the graph broke a rule of its phase",
        "A pass left a graph that the verifier refuses: a wrong type, an op that the phase doesn't "
        "allow, or a value used before it exists. Compiling on would give wrong results.",
        "set LLMC_DUMP to a folder, compile again and report the last dump",
    ),
    "LLMC-E0102": ErrorInfo(
        "the compiled program reported an error",
        "The native library returned an error code for a step that was within its stated limits.",
        "check the artifact with `llmc verify`; if it passes, report this",
    ),
    "LLMC-E0103": ErrorInfo(
        "the memory plan is wrong",
        "Two buffers that are alive at the same time overlap in the plan.",
        "set LLMC_DUMP to a folder, compile again and report the dump of the plan",
    ),
    "LLMC-E0104": ErrorInfo(
        "the engine has stopped",
        "A step failed, the model was closed, or the process was forked after the model was "
        "loaded. What ran has ended, and nothing new is begun.",
        "read the cause, then load the model again",
    ),
    "LLMC-E0200": ErrorInfo(
        "wrong usage",
        "The command line has an unknown option or verb, lacks an argument, or combines options "
        "that exclude one another.",
        "see `llmc --help` or `llmc VERB --help`",
    ),
    "LLMC-E0201": ErrorInfo(
        "unknown quantization scheme or KV cache",
        "`--quant` or `--kv-cache` names something that this version doesn't know.",
        "choose one of those that `llmc compile --help` lists",
    ),
    "LLMC-E0202": ErrorInfo(
        "unknown instruction-set level or GPU",
        "`--cpu` names a level, or `--sm` a compute capability, that this version or the target "
        "doesn't build for; or `--sm` is missing for target triton, which has no default: it "
        "builds for GPUs that this machine doesn't have.",
        "choose one of the levels that `llmc compile --help` lists, or the compute capability of "
        "the GPU that will run it: `nvidia-smi --query-gpu=compute_cap --format=csv`",
    ),
    "LLMC-E0203": ErrorInfo(
        "unknown target",
        "`--target` names a target that this version doesn't know.",
        "choose one of the targets that `llmc compile --help` lists",
    ),
    "LLMC-E0204": ErrorInfo(
        "the prompt is longer than the context",
        "The prompt has more tokens than the compiled program (or the `--max-context` it was "
        "loaded with) can keep. llmc never cuts a prompt silently.",
        "shorten the prompt, or compile with a larger --max-context",
    ),
    "LLMC-E0205": ErrorInfo(
        "a parameter is out of range",
        "A sampling parameter, a size or an option of a target has a value that it can't have.",
        "correct the parameter that the message names",
    ),
    "LLMC-E0206": ErrorInfo(
        "the prompt is empty",
        "After tokenization nothing is left to continue from.",
        "give a prompt of at least one token",
    ),
    "LLMC-E0207": ErrorInfo(
        "unknown error id",
        "`llmc explain` was asked about an id that isn't in the table.",
        "ids look like LLMC-E0401; `llmc explain` without an argument lists them",
    ),
    "LLMC-E0208": ErrorInfo(
        "a token id is outside the vocabulary",
        "A prompt was given as token ids and one of them is negative or too large.",
        "use ids that this artifact's tokenizer gives",
    ),
    "LLMC-E0209": ErrorInfo(
        "the chat messages can't be rendered",
        "The artifact has no chat template, or its template refused these messages.",
        "give plain text, or messages with the roles that the template knows",
    ),
    "LLMC-E0210": ErrorInfo(
        "the artifact has no tokenizer",
        "Text was given, but the artifact holds no tokenizer to turn it into token ids.",
        "give token ids, or compile from a source that holds a tokenizer",
    ),
    "LLMC-E0211": ErrorInfo(
        "the grammar can't be used",
        "A JSON schema, regular expression, grammar or list of choices is invalid, uses something "
        "that isn't supported, or is larger or more complex than is accepted from outside.",
        "correct or simplify it; docs/sampling.md states what is supported and the limits",
    ),
    "LLMC-E0212": ErrorInfo(
        "the tools can't be used",
        "A tool's definition is malformed, or the choice names a tool that isn't offered.",
        "define tools as functions with a name and a JSON schema of type 'object'",
    ),
    "LLMC-E0301": ErrorInfo(
        "quality gate not met",
        "The compiled model differs more from the source model than `--max-kl` allows. "
        "No artifact was written.",
        "use a scheme with more bits, or a larger --max-kl",
    ),
    "LLMC-E0401": ErrorInfo(
        "unsupported op",
        "The model uses an op that no part of the compiler can lower. The message names the op "
        "and the line of model code it came from.",
        "report the op with the model's config.json; no weights are needed",
    ),
    "LLMC-E0402": ErrorInfo(
        "unknown architecture",
        "The config names an architecture that the installed transformers can't build, "
        "or one that isn't a causal language model.",
        "upgrade transformers, or compile another model",
    ),
    "LLMC-E0403": ErrorInfo(
        "the GGUF architecture isn't mapped",
        "The file's `general.architecture` has no mapping to a transformers model.",
        "compile from the Hugging Face checkpoint of the same model",
    ),
    "LLMC-E0404": ErrorInfo(
        "the model has a config but no weights",
        "There is a config.json, but neither safetensors files nor an index beside it.",
        "download the weights of the model as well",
    ),
    "LLMC-E0405": ErrorInfo(
        "a shard is missing",
        "The index of the checkpoint names a file that isn't there.",
        "download the missing file that the message names",
    ),
    "LLMC-E0406": ErrorInfo(
        "a tensor is missing or has the wrong shape",
        "The checkpoint's tensors aren't those of the model that its config describes.",
        "check that config.json and weights belong together",
    ),
    "LLMC-E0407": ErrorInfo(
        "a tensor has a dtype that can't be read as a weight",
        "A weight is stored in a dtype that the compiler doesn't convert.",
        "store the checkpoint as float32, float16 or bfloat16",
    ),
    "LLMC-E0408": ErrorInfo(
        "the weights hold NaN or infinity",
        "A weight isn't a finite number. Every text from such a model would be noise.",
        "download the checkpoint again, or repair it",
    ),
    "LLMC-E0409": ErrorInfo(
        "no model here",
        "The path doesn't exist, the directory is empty or has no config.json, or the file is no "
        "whole model (an adapter, a later part).",
        "give a Hugging Face directory, a .gguf file, a Hub id or a catalog name",
    ),
    "LLMC-E0410": ErrorInfo(
        "a checkpoint tensor was not used",
        "Every tensor of the checkpoint must reach the model exactly once; this one doesn't, "
        "so a part of the model would silently be left out.",
        "check that config.json and weights belong together",
    ),
    "LLMC-E0411": ErrorInfo(
        "a config field has no effect on the compiled model",
        "No code of transformers reads this field, so a checkpoint may be of another model than it "
        "says. That is refused with --strict-config, and a note without.",
        "if it doesn't matter for you, allow it with --allow-field NAME",
    ),
    "LLMC-E0412": ErrorInfo(
        "an op mixes tokens outside attention",
        "Sequences are packed behind one another, so every op but attention must treat tokens "
        "separately. This one doesn't.",
        "report the op with the model's config.json",
    ),
    "LLMC-E0413": ErrorInfo(
        "the attention has an argument that isn't understood",
        "The model hands its attention, mask or experts function an argument that llmc doesn't "
        "know. Ignoring it would give wrong results silently.",
        "report the argument with the model's config.json",
    ),
    "LLMC-E0414": ErrorInfo(
        "the mask isn't understood",
        "The model builds a mask of a kind that llmc doesn't know, or uses it outside attention.",
        "report it with the model's config.json",
    ),
    "LLMC-E0415": ErrorInfo(
        "the probe found a difference from the source model",
        "A shrunken copy of the model with random weights gave other logits after compilation "
        "than before.",
        "report it with the model's config.json",
    ),
    "LLMC-E0416": ErrorInfo(
        "the target can't do this",
        "The chosen target or scheme doesn't support something that the model needs.",
        "choose another target or scheme",
    ),
    "LLMC-E0417": ErrorInfo(
        "a checkpoint file is damaged",
        "A safetensors or GGUF file can't be read: truncated, or not in its format.",
        "download the file that the message names again",
    ),
    "LLMC-E0418": ErrorInfo(
        "the config can't be read",
        "A config file isn't valid JSON, or its values describe no model that can be built.",
        "download the file that the message names again",
    ),
    "LLMC-E0419": ErrorInfo(
        "the checkpoint's quantization isn't known",
        "The checkpoint is quantized in a format that llmc can't take over.",
        "compile from an unquantized checkpoint",
    ),
    "LLMC-E0425": ErrorInfo(
        "the adapter can't be merged",
        "The adapter isn't a LoRA that can be added to weights, or it is one of another model.",
        "merge it with its own tools, and compile the result",
    ),
    "LLMC-E0426": ErrorInfo(
        "the tokenizer can't be taken into an artifact",
        "transformers runs this kind of tokenizer in Python alone; an artifact holds tokenizers of "
        "the `tokenizers` library.",
        "remove the tokenizer's files from a copy of the model and give token ids as prompts, or "
        "compile a model with another tokenizer",
    ),
    "LLMC-E0427": ErrorInfo(
        "text would come out otherwise than in transformers",
        "Of fixed texts and chats, the artifact's tokenizer or template would make other ids or "
        "prompts than transformers does with the same files. Nothing was written.",
        "report the model; with other versions of transformers and tokenizers it may not be so",
    ),
    "LLMC-E0430": ErrorInfo(
        "the model can't be traced",
        "torch.export could not follow the model's forward pass for a packed step of any length: "
        "it branches on values or shapes that are only known at run time.",
        "look at the line of model code named in the message; LLMC_DEBUG=1 prints the whole trace",
    ),
    "LLMC-E0431": ErrorInfo(
        "a buffer can't be computed",
        "The model has a buffer that is in no checkpoint and that its own initialisation does not "
        "set, so its value is unknown.",
        "the model's class must compute it in _init_weights",
    ),
    "LLMC-E0501": ErrorInfo(
        "the artifact can't be opened",
        "The file doesn't exist, isn't readable, or is neither a file nor a directory.",
        "check the path",
    ),
    "LLMC-E0502": ErrorInfo(
        "not an llmc artifact",
        "The file isn't a zip archive with a manifest of llmc.",
        "give a file that `llmc compile` wrote",
    ),
    "LLMC-E0503": ErrorInfo(
        "the artifact is truncated or damaged",
        "The archive's structure isn't one that llmc writes: cut short, overlapping, compressed, "
        "or with names or sizes that contradict one another.",
        "copy the artifact again, or compile it again",
    ),
    "LLMC-E0504": ErrorInfo(
        "a digest doesn't match",
        "An entry of the artifact isn't the one that was written. Nothing of it was run.",
        "copy the artifact again, or compile it again",
    ),
    "LLMC-E0505": ErrorInfo(
        "the artifact has another format",
        "It was written by a later or an earlier version of llmc than the one that reads it.",
        "upgrade llmc-compiler on this machine, or compile the model again",
    ),
    "LLMC-E0506": ErrorInfo(
        "this CPU lacks a feature that the artifact needs",
        "No variant in the artifact can run here. The message names the missing features.",
        "compile with `--cpu` for a level that this machine has, or add `portable`",
    ),
    "LLMC-E0507": ErrorInfo(
        "no variant for this machine",
        "The artifact holds no program for this operating system, processor or runtime.",
        "compile with a target that this machine runs",
    ),
    "LLMC-E0508": ErrorInfo(
        "the manifest is invalid",
        "manifest.json doesn't follow the schema of its format version, or contradicts the "
        "entries beside it.",
        "compile the artifact again",
    ),
    "LLMC-E0509": ErrorInfo(
        "the program can't be loaded",
        "The native library is refused by the system, or a kernel by the GPU's driver, as an older "
        "one may (`CUDA_ERROR_INVALID_IMAGE`, `CUDA_ERROR_NO_BINARY_FOR_GPU`); or the program "
        "speaks another version of its interface than this runtime.",
        "update the GPU's driver; or compile the artifact again with this version of llmc",
    ),
    "LLMC-E0510": ErrorInfo(
        "conformance failed",
        "On this machine the artifact doesn't give the logits or the text that were recorded "
        "when it was compiled.",
        "don't serve it from this machine; report the check that failed",
    ),
    "LLMC-E0511": ErrorInfo(
        "the rebuild differs",
        "Compiling the same source again gave other content than the artifact holds.",
        "compare the tool versions in both manifests",
    ),
    "LLMC-E0512": ErrorInfo(
        "the artifact's tokenizer can't be read",
        "tokenizer.json, the chat template or generation.json isn't in its format.",
        "compile the artifact again",
    ),
    "LLMC-E0600": ErrorInfo(
        "not enough memory",
        "The operating system refused an allocation.",
        "free memory, or give the process more",
    ),
    "LLMC-E0601": ErrorInfo(
        "not enough memory to load the model",
        "Weights, workspace and the smallest useful cache need more memory than is available: the "
        "machine's, or, for a program of target triton or trt, the GPU's, which other processes "
        "may be using.",
        "free memory (`nvidia-smi` shows who has the GPU's), lower --max-context, or compile with "
        "fewer bits; `llmc inspect FILE --memory` says what is needed",
    ),
    "LLMC-E0602": ErrorInfo(
        "not enough memory to compile",
        "The compile can't stay within the memory it was allowed.",
        "raise --max-ram, or compile on a larger machine",
    ),
    "LLMC-E0603": ErrorInfo(
        "the request can never fit the cache",
        "The request's prompt and output need more cache blocks than the whole pool has, so "
        "waiting wouldn't help.",
        "shorten the prompt or max_tokens, or load with more memory",
    ),
    "LLMC-E0701": ErrorInfo(
        "the disk is full",
        "There was no space left while writing. Nothing was left behind.",
        "free space on the target's file system",
    ),
    "LLMC-E0702": ErrorInfo(
        "the target can't be written",
        "The output path isn't writable: a missing folder, no permission, or a directory where "
        "a file should be.",
        "choose another output path",
    ),
    "LLMC-E0703": ErrorInfo(
        "a package is missing",
        "What was asked for needs an optional part of llmc that isn't installed. Target triton "
        "needs the extra `triton` to compile, and the extra `cuda` to run.",
        "install it as the message says",
    ),
    "LLMC-E0704": ErrorInfo(
        "the download failed",
        "The network or the server didn't deliver a file.",
        "check the connection, or give a local path",
    ),
    "LLMC-E0705": ErrorInfo(
        "a downloaded file has the wrong digest",
        "What was downloaded isn't what the catalog names. It was deleted.",
        "try again; if it stays so, the source has changed",
    ),
    "LLMC-E0706": ErrorInfo(
        "the toolchain failed",
        "The compiler (C++, or Triton's) couldn't be run, or refused the generated code. Of target "
        "triton the message names the kernel; its compiler runs in processes of its own, and one "
        "that ended without an answer is often out of memory.",
        "install the target's tools again; if it stays so, report the compiler's message",
    ),
    "LLMC-E0707": ErrorInfo(
        "reading or writing failed",
        "The operating system reported an error on a file.",
        "see the system's message",
    ),
    "LLMC-E0798": ErrorInfo(
        "interrupted",
        "The command was stopped by Ctrl-C. Nothing half-written was left behind.",
        "run it again",
        exit_code=130,
    ),
    "LLMC-E0799": ErrorInfo(
        "terminated",
        "The command was asked to stop by SIGTERM. Nothing half-written was left behind.",
        "run it again",
        exit_code=143,
    ),
}

ERRORS: dict[str, ErrorInfo] = dict(
    sorted({**_GENERAL_ERRORS, **SERVING_ERRORS, **TARGET_ERRORS}.items())
)
"""Every id, those of the server and of targets included."""
