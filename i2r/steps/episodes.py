"""The episodes step: the fixed test episodes of a fold, shot and evaluation seed."""

from __future__ import annotations

from typing import Any

from i2r.data.episodes import describe_excluded, evaluation_episodes, save_episodes
from i2r.files import read_json
from i2r.pipeline.jobs import Job


def run(job: Job) -> dict[str, Any]:
    """Write episodes.json, which also names the scored and the excluded classes."""
    lists = read_json(job.inputs["lists"] / "lists.json")
    seed, shots = job.args["eval_seed"], job.args["shot"]
    least = job.params["data"]["min_class_images"]
    given = job.params["evaluate"]
    made = evaluation_episodes(lists, seed, given["episodes"], shots, least, given.get("protocol", "bam"))
    if why := describe_excluded(made):
        print(why, flush=True)
    save_episodes(job.out / "episodes.json", made, seed=seed, shots=shots)
    queries = {str(cls): sum(e.cls == cls for e in made.episodes) for cls in made.classes}
    excluded = [item["name"] for item in made.excluded]
    metrics = {"episodes": len(made.episodes), "queries": queries, "excluded": excluded}
    if made.passed_over:
        print(f"{made.passed_over} supports passed over: nothing of the class is left at the network's side")
    return metrics | ({"passed_over": made.passed_over} if made.passed_over else {})
