"""I2R from raw data to report: `snakemake --cores` makes everything, `snakemake --cores train` one stage."""

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from i2r.params import ParamsError
from i2r.plan import inputs
from i2r.stages import prepare

min_version("9.0")


configfile: "params.yaml"


# The jobs come from the params, each with a key (i2r/plan.py). Rules find a job by its path and all else in its spec,
# so that a params.yaml edited meanwhile changes nothing for jobs that run or wait.
try:
    PLAN = prepare(config)
except ParamsError as error:
    raise WorkflowError(error)

STORE = "results/store/{place}/{name}/{key}"
SPEC = "results/specs/{place}/{key}.json"
LOG = "results/logs/{place}/{name}.{key}.log"
HOME = f"results/{PLAN.params.experiment}"
THREADS = PLAN.params.runtime.threads
MEMORY = int(4000 + 1024 * PLAN.params.runtime.cache_gb)
GPU = int(PLAN.params.runtime.device.startswith("cuda"))


wildcard_constraints:
    place=r"[a-z_/]+",
    name=r"[^/]+",
    key=r"[0-9a-f]{12}",


def needs(wildcards):
    """What a job needs. Only that it is there counts: file times differ in every copy of a clone."""
    return ancient(inputs(wildcards.place, wildcards.key))


localrules:
    all,
    data,
    backbone,
    base_learner,
    cam_head,
    train,
    evaluate,
    ablate,
    report,
    track,


rule all:
    default_target: True
    input:
        PLAN.files(),
        f"{HOME}/tracked-{PLAN.report['key']}.json",


rule data:
    input:
        PLAN.files("data"),


rule backbone:
    input:
        PLAN.files("backbone"),


rule base_learner:
    input:
        PLAN.files("base_learner"),


rule cam_head:
    input:
        PLAN.files("cam_head"),


rule train:
    input:
        PLAN.files("train"),


rule evaluate:
    input:
        PLAN.files("evaluate"),


rule ablate:
    input:
        PLAN.files("ablate"),


include: "workflow/rules/data.smk"
include: "workflow/rules/networks.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
