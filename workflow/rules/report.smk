rule report:
    input:
        ancient(inputs(REPORT)),
    output:
        f"{HOME}/{PLAN.report['manifest']}",
        f"{HOME}/metrics.json",
        f"{HOME}/curves.csv",
        f"{HOME}/table.md",
        f"{HOME}/ablation.md",
        f"{HOME}/priors.md",
        f"{HOME}/summary.md",
        report(f"{HOME}/summary.html", caption="../report/summary.rst", category="Summary"),
        report(f"{HOME}/table.csv", caption="../report/table.rst", category="Tables"),
        report(f"{HOME}/ablation.csv", caption="../report/ablation.rst", category="Tables"),
        report(f"{HOME}/priors.csv", caption="../report/priors.rst", category="Tables"),
        report(f"{HOME}/metrics.csv", caption="../report/metrics.rst", category="Tables"),
        report(f"{HOME}/per_class.csv", caption="../report/per_class.rst", category="Tables"),
        report(
            directory(f"{HOME}/figures"),
            patterns=["{figure}.png"],
            caption="../report/figures.rst",
            category=lambda w: CATEGORIES[w.figure.split("-")[0]],
            labels={"figure": "{figure}"},
        ),
    log:
        f"results/logs/report/{PLAN.params.experiment}.{PLAN.report['key']}.log",
    conda:
        "../../envs/i2r.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        spec=REPORT,
    shell:
        "python -m i2r run report --spec {params.spec:q} 2>&1 | tee -i {log:q}"


rule track:
    input:
        ancient(f"{HOME}/{PLAN.report['manifest']}"),
    output:
        f"{HOME}/tracked-{PLAN.report['key']}.json",
    log:
        f"results/logs/track/{PLAN.params.experiment}.{PLAN.report['key']}.log",
    conda:
        "../../envs/i2r.yaml"
    shell:
        "python -m i2r track --mark {output:q} 2>&1 | tee -i {log:q}"
