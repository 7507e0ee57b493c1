rule report:
    input:
        ancient(PLAN.files(*STAGES_BEFORE_REPORT)),
    output:
        f"{HOME}/report-{PLAN.report['key']}.json",
        *[report(...)],
    params:
        spec=f"results/{PLAN.report['spec']}",
    log:
        f"results/logs/report/{PLAN.params.experiment}.{PLAN.report['key']}.log",
    resources:
        mem_mb=4000,
        runtime=60,
    conda:
        "../../envs/i2r.yaml"
    shell:
        "python -m i2r run report --spec {params.spec:q} 2>&1 | tee -i {log:q}"


rule track:
    input:
        ancient(rules.report.output[0]),
    output:
        f"{HOME}/tracked-{PLAN.report['key']}.json",
    log:
        f"results/logs/track/{PLAN.params.experiment}.{PLAN.report['key']}.log",
    conda:
        "../../envs/i2r.yaml"
    shell:
        "python -m i2r track --mark {output:q} 2>&1 | tee -i {log:q}"
