"""What `paperlab show` prints: one object about a paper or a method, and that object as a page of text."""

from typing import Any

from paperlab.cli import text
from paperlab.core.card import Check
from paperlab.core.methods import Method, UnknownMethod, find_method, methods, parameters, snippet
from paperlab.core.paper import Paper, UnknownPaper, find_paper
from paperlab.core.published import Row, public
from paperlab.core.signature import show
from paperlab.core.standings import counts, main, of_method, of_paper, one_word, outdated_of
from paperlab.core.words import figures, outdated, what_was_read

NAMED = 12  # authors that the page names


def about(name: str) -> dict[str, Any]:
    """All that is known of a paper (by slug or arXiv id) or of a method that no paper of the catalogue describes.

    Raises UnknownPaper with near names.
    """
    try:
        paper = find_paper(name)
    except UnknownPaper as unknown:
        try:
            method = find_method(name)
        except UnknownMethod:
            raise unknown from None
        described = find_paper(method.card.paper) if method.card.paper else None
        return {**_paper(described, [method]), **_methods([method], of_method(method.slug))}
    behind = [method for method in methods().values() if method.card.paper == paper.slug]
    return {**_paper(paper, behind), **_methods(behind, of_paper(paper.slug))}


def facts(paper: Paper) -> dict[str, Any]:
    """The facts of a paper that listings and pages share."""
    names = ("slug", "title", "arxiv", "year", "kind", "family", "method", "code")
    return {name: getattr(paper, name) for name in names}


def _paper(paper: Paper | None, behind: list[Method]) -> dict[str, Any]:
    if paper is None:
        return {"slug": behind[0].slug, "title": behind[0].says, "family": behind[0].card.family, "kind": "baseline",
                "year": None, "arxiv": None, "claims": []}  # fmt: skip
    plan = paper.plan
    return {
        **facts(paper),
        "authors": list(paper.authors), "month": paper.month, "venue": paper.venue,
        "summary": paper.summary,
        "claims": [{"claim": c.claim, "metric": c.metric, "value": c.value, "baseline": c.baseline,
                    "setting": c.setting} for c in paper.claims],
        "plan": plan and {"task": plan.task, "experiment": plan.experiment, "metric": plan.metric,
                          "expect": plan.expect, "effort": plan.effort, "needs": list(plan.needs)},
        "why_not": paper.why_not,
    }  # fmt: skip


def _methods(behind: list[Method], rows: list[Row]) -> dict[str, Any]:
    checked = [method for method in behind if method.card.checks]
    counted = counts(main(checked[0].card.paper or checked[0].slug)) if checked else {}
    usable = next((method for method in behind if method.verbs), None)
    return {
        "runnable": bool(checked),
        "verdict": one_word(counted),
        "counts": counted,
        "verdicts": [{**public(row), "outdated": list(outdated_of(row.id))} for row in rows],
        "checks": [_check(method, check) for method in behind for check in method.card.checks],
        "parameters": {
            method.slug: [{"name": p.name, "allowed": p.allowed, "default": p.default} for p in parameters(method)]
            for method in behind
        },
        "read": [said for method in behind if (said := what_was_read(method.card))],
        "departs": [departure for method in behind for departure in method.card.departs],
        "command": f"paperlab run {checked[0].slug}" if checked else None,
        "snippet": snippet(usable) if usable else None,
    }


def _check(method: Method, check: Check) -> dict[str, Any]:
    return {
        "method_file": method.slug,
        "claim": check.claim,
        "role": check.role,
        "says": check.says,
        "hash": check.hash,
        "tasks": check.tasks,
        "method": str(check.method),
        "baseline": str(check.baseline),
        "rivals": [str(arm) for arm in check.rivals],
        "beside": [str(arm) for arm in check.beside],
        "expect": check.expect,
        "margin": check.margin,
        "equal": check.equal,
        "least_scale": check.least_scale,
        "gap": check.gap,
    }


def expectation(check: dict[str, Any]) -> str:
    """What a check expects, in words."""
    margin = text.percent(check["margin"], signed=False)
    if check["expect"] == "no worse":
        return f"{check['method']} no more than {margin} worse than {check['baseline']}"
    if check["expect"] == "equal":
        return f"{check['method']} within {margin} of {check['baseline']}"
    return f"{check['method']} {check['expect']} than {check['baseline']}, by {margin} or more"


def verdict_line(row: dict[str, Any]) -> str:
    """A verdict with where it was reached, its interval, or why there is none."""
    line = f"{row['word'].upper()} here"
    if row["outdated"]:
        line += f" ({outdated(row['outdated'])})"
    if row["gain"] is None:
        return text.wrap(f"{line}: {row['reason']}", "      ", first="    ")
    ends = " to ".join("unbounded" if end is None else text.percent(end) for end in (row["low"], row["high"]))
    line += f": gain {text.percent(row['gain'])} ({ends}), {row['task']} on {row['model']}, {row['scale']}"
    line += f"; {figures(row)}" if figures(row) else ""
    return text.wrap(line, "      ", first="    ")


def page(known: dict[str, Any]) -> str:
    """The object of `about` as text, 80 columns wide, nothing cut."""
    lines = [text.wrap(known["title"], "", first="")]
    if names := known.get("authors"):
        lines.append(
            text.wrap(", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if names[NAMED:] else ""), "")
        )
    facts = [known["slug"], known["family"], known["kind"], known.get("venue") or str(known["year"] or "")]
    lines.append(text.wrap(" · ".join(fact for fact in facts if fact), ""))
    if known["arxiv"]:
        lines.append(f"https://arxiv.org/abs/{known['arxiv']}")
    if known.get("code"):
        lines.append(f"code: {known['code']}")
    if known.get("summary"):
        lines += ["", text.wrap(known["summary"], "")]
    if known["claims"]:
        lines += ["", "Claims, with the paper's own figures"]
        for claim in known["claims"]:
            value = f": {claim['value']}" if claim["value"] else ""
            lines.append(text.wrap(f"{claim['claim']}{value}", "    ", first="  - "))
            against = f"against {claim['baseline']}; " if claim["baseline"] else ""
            lines.append(text.wrap(f"{against}{claim['setting']}", "    "))
    lines += _checks(known)
    lines += [text.wrap(said, "", first="") for said in known["read"]]
    if known["departs"]:
        lines += ["", text.wrap("Where our method file departs from the paper", "")]
        lines += [text.wrap(departure, "    ", first="  - ") for departure in known["departs"]]
    for slug, params in known["parameters"].items():
        if params:
            lines += ["", f"Parameters of {slug}"]
            lines += [text.wrap(f"({p['allowed']})", first=f"  {p['name']} = {show(p['default'])}  ") for p in params]
    if known["command"]:
        lines += ["", "Run it", f"  {known['command']}"]
    if known["snippet"]:
        lines += ["", "Use it", *(f"  {line}" for line in known["snippet"].splitlines())]
    return "\n".join(lines)


def _checks(known: dict[str, Any]) -> list[str]:
    """Each check with its expectation, gap and verdicts; or what is planned where there is none."""
    if not known["checks"]:
        plan = known.get("plan")
        if plan:
            needs = f" Needs: {', '.join(plan['needs'])}." if plan["needs"] else ""
            planned = f"{plan['experiment']} Expected: {plan['expect']}.{needs}"
            return ["", f"No check yet; planned (effort {plan['effort']})", text.wrap(planned)]
        return ["", text.wrap(f"Nothing to run: {known['why_not']}", "")] if known.get("why_not") else []
    lines = ["", "Checks here"]
    for check in known["checks"]:
        role = "" if check["role"] == "claim" else f" ({check['role']})"
        lines.append(text.wrap(f"{check['claim']}{role}: {check['says']}", "    ", first="  - "))
        tasks = ", ".join(f"{metric} on {task}" for task, metric in check["tasks"].items())
        lines.append(text.wrap(f"expected: {expectation(check)}; judged by {tasks}", "      ", first="    "))
        lines.append(text.wrap(f"gap: {check['gap']}", "      ", first="    "))
        mine = [row for row in known["verdicts"] if row["check_hash"] == check["hash"]]
        lines += [verdict_line(row) for row in mine] or ["    not yet run"]
    return lines
