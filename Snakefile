"""I2R from raw data to report: `snakemake --cores all` makes everything, `snakemake --cores all train` one stage."""

from snakemake.utils import min_version

min_version("9.0")


configfile: "params.yaml"


include: "workflow/rules/common.smk"


wildcard_constraints:
    place=r"[a-z_/]+",
    name=r"[^/]+",
    key=r"[0-9a-f]{12}",


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
