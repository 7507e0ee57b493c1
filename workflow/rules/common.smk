"""The plan (i2r/pipeline/plan.py), and what rules need from it: files, inputs and resources of jobs."""

import atexit
import signal
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePath
from threading import Timer

from snakemake.exceptions import WorkflowError
from snakemake.logging import ColorizingTextHandler, logger
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.enums import Quietness

from i2r.config.experiment import STAGES
from i2r.config.load import load
from i2r.errors import sentence
from i2r.pipeline import alone, fetched, gpus, store
from i2r.pipeline.spec import RESULTS, Input, JobError, read_spec
from i2r.pipeline.stage import failures, prepare, reports
from i2r.pipeline.steps import STEPS


def say_last(sentences):
    """Print these when Snakemake ends, after its own messages."""
    atexit.register(lambda: [print(f"i2r: {text}", file=sys.stderr) for text in sentences])


@contextmanager
def as_workflow_errors():
    """Let Snakemake end with an expected error, and with its sentence as the last line."""
    try:
        yield
    except Exception as error:
        if text := sentence(error):
            say_last([text])
            raise WorkflowError(text)
        raise


# A --configfile replaces params.yaml. With a `configfile:` directive here, Snakemake would merge the two.
with as_workflow_errors():
    PLAN = prepare(load(workflow.overwrite_configfiles, workflow.config_settings.config))


def stop_once(number, frame):
    """End Snakemake and its jobs after Ctrl-C; a second one must not interrupt that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


if workflow.is_main_process and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, stop_once)

if workflow.is_main_process:  # also in a dry run, for at this point Snakemake does not say which it is
    alone.hold()


def look_again(scheduler, delay):
    """Let Snakemake look for jobs to start after `delay` seconds, if it does not wait for that already.

    Its own form sets a timer whenever it looks: also whenever a job has ended, so that after hundreds of jobs it looks
    hundreds of times a second, which takes a core.
    """

    def look():
        scheduler.looks_again = False
        scheduler._open_jobs.release()

    if not getattr(scheduler, "looks_again", False):
        scheduler.looks_again = True
        Timer(delay, look).start()


JobScheduler._schedule_reevalutation = look_again

LOCATED = store.Located(PLAN)
RUNTIME = PLAN.params.values.runtime
VIEW = f"results/state/{PLAN.experiment}.view"  # requested if only the view has to be updated
SHOWN = store.shown(PLAN)
THREADS = PLAN.params.values.threads
REFUSED = {}  # job that fetches -> why it cannot


# With `--quiet rules`, Snakemake's own block about a failed command is quiet as well; its log file has it.
if Quietness.RULES in (workflow.output_settings.quiet or ()):
    for handler in logger.handlers:
        if isinstance(handler, ColorizingTextHandler):
            handler.addFilter(lambda record: getattr(record, "exception", "") != "RuleException")

# A job waits for its place on a GPU (i2r/pipeline/gpus.py), so no more than these run at once, unless someone says so.
if "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", RUNTIME.jobs_per_gpu * max(1, len(gpus.present())))


wildcard_constraints:
    key="[0-9a-f]{12}",


def asked(jobs):
    """Manifests of jobs, and the rule that updates the view if it is outdated.

    What was fetched once is only asked for by those that read it.
    """
    wanted = [spec for spec in jobs if spec.step != "fetch" or not LOCATED.done(spec)]
    return [LOCATED.manifest(Input(spec.step, spec.key)) for spec in wanted] + ([] if SHOWN else [VIEW])


def needs(step):
    """Manifests of a job's inputs, from its spec, so that params edited during a run have no effect.

    A finished job has no input files. Other jobs only need their inputs to exist, because file times differ between
    copies of a clone, unless these will be made again: Snakemake does not look at jobs that follow one that it runs if
    they only need its files to exist. For a damaged or outdated result, LOCATED.again gives a file that is newer.
    """

    def found(wildcards):
        spec = PLAN.jobs.get(wildcards.key) or read_spec(RESULTS / "specs" / step / f"{wildcards.key}.json")
        if LOCATED.done(spec) and not LOCATED.looks(spec):
            return []
        if step == "fetch" and workflow.is_main_process:
            announced(str(spec.path(RESULTS)))
        again = LOCATED.again(spec)
        if again and workflow.is_main_process and (why := LOCATED.problem(spec)):
            damaged(why)
        given = [(LOCATED.manifest(needed), LOCATED.remade(needed)) for needed in spec.inputs.values()]
        return [file if remade else ancient(file) for file, remade in given] + again

    return found


@cache
def damaged(text):
    """What is wrong with a result, said once."""
    print(f"i2r: {text}; it is made again", file=sys.stderr)


@cache
def announced(path):
    """What a job would fetch, said once."""
    spec = read_spec(Path(path))
    said, refused = fetched.preview(spec)
    if said:
        print(said, file=sys.stderr)
    if refused:
        REFUSED[spec.key] = refused


# Products that `snakemake --report` shows: name -> category, and a file of workflow/report/ about it.
REPORTED = {
    "report.html": ("The report", "page.rst"),
    "claims.csv": ("Claims and controls", "claims.rst"),
    "controls.csv": ("Claims and controls", "controls.rst"),
    "strata.csv": ("Claims and controls", "strata.rst"),
    "table.csv": ("Tables", "tables.rst"),
    "ablation.csv": ("Tables", "tables.rst"),
    "priors.csv": ("Tables", "tables.rst"),
    "per_class.csv": ("Tables", "classes.rst"),
    "figures": ("Figures", "figures.rst"),
    "cost.csv": ("Provenance", "cost.rst"),
    "checklist.md": ("Provenance", "checklist.rst"),
}


def product(step, name):
    """A product of a job, for Snakemake's `output`; those of a report are also for its `--report`."""
    path = f"results/store/{step.name}/{{key}}/{name}"
    file = directory(path) if name in step.folders else path
    if step.name != "report" or name not in REPORTED:
        return file
    category, text = REPORTED[name]
    pictures, label = (["{figure}.png"], "{figure}") if name in step.folders else ([], name)
    labels = {"part": label}
    return report(file, category=category, caption=f"../report/{text}", patterns=pictures, labels=labels)


def asked_for(words):
    """Jobs requested on the command line by a readable folder, or a product in it: results/shapes/train/i2r-..."""
    named, found = PLAN.named(), {}
    for word in words:
        path = PurePath(word.removeprefix("results/"))
        for folder in (path, *path.parents):
            spec, below = named.get(str(folder)), path.relative_to(folder).parts
            if spec and (not below or below[0] in (store.MANIFEST, *spec.products)):
                found[word] = spec
    return found


def show():
    """Update the view of the experiment."""
    with as_workflow_errors():
        store.show(PLAN)
        Path(VIEW).unlink(missing_ok=True)


SNAKEMAKE = 400  # MB of the two in each job on a node; measured: 180 each with the plan of shapes


def memory(step):
    """Memory of a job in MB, half as much again with each attempt."""
    kept = int(1024 * RUNTIME.cache_gb) if step.torch else 0
    own = (step.memory + kept) * step.processes(RUNTIME) + SNAKEMAKE
    return lambda wildcards, attempt: own * (1 + attempt) // 2


def cores(step):
    """CPU cores of a job on a cluster: its threads, or the processes that load its images and itself."""
    return max(THREADS, RUNTIME.workers + 1) * step.processes(RUNTIME) if step.torch else 1
