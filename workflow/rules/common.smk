from snakemake.exceptions import WorkflowError

from i2r.config.schema import ParamsError
from i2r.pipeline.plan import inputs
from i2r.pipeline.stages import gpus, prepare

# The jobs come from the params, each with a key (i2r/pipeline/plan.py). Rules find a job by its path and all else in its spec,
# so that a params.yaml edited meanwhile changes nothing for jobs that run or wait.
try:
    PLAN = prepare(config)
except ParamsError as error:
    raise WorkflowError(error)

STORE = "results/store/{place}/{name}/{key}"
SPEC = "results/specs/{place}/{key}.json"
LOG = "results/logs/{place}/{name}.{key}.log"
REPORT = f"results/{PLAN.report['spec']}"
HOME = f"results/{PLAN.params.experiment}"
THREADS = PLAN.params.runtime.threads
MEMORY = int(4000 + 1024 * PLAN.params.runtime.cache_gb)
GPU = gpus(PLAN.params.runtime.device)

# Of a figure in the report, by the first word of its name.
CATEGORIES = {
    "miou": "Scores",
    "ablation": "Scores",
    "priors": "Scores",
    "curves": "Training",
    "compare": "Episodes",
    "episodes": "Episodes",
}


def needs(wildcards):
    """What a job needs. Only that it is there counts: file times differ in every copy of a clone."""
    return ancient(inputs(SPEC.format(**wildcards)))
