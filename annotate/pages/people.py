"""People: how labelers do and how far the project is, for researchers; who may sign in, for admins.

Reads   the store's numbers about labelers and the project
Writes  people: an invited one with a link that signs them in once, or that they are disabled; labelers let in

Researchers see pseudonyms alone; admins see names beside them.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from annotate import plots
from annotate.context import Context
from annotate.known import admitted, waiting_of
from annotate.panels import QUIET, allow, closed_to, header, panel
from data.errors import FeedbackError
from data.records import ROLES

Blocks = list[dict[str, Any]]

ALPHA = (
    "Agreement of everyone's ranks corrected for chance: 1 is perfect, 0 is what chance gives. Each response is a "
    "unit, its ranks are ordinal values."
)


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    notice = panel()
    with gr.Column(visible=False) as body:
        with gr.Row(elem_classes="pawl-toolbar"):
            refresh = gr.Button("Refresh", scale=0, min_width=110)
        waiting = panel()
        let_in = panel()
        project = panel()
        labelers = panel()
        details = panel()
        more = panel()
        with gr.Accordion("What these numbers mean", open=False, elem_classes="pawl-fold"):
            meanings = panel()
    with gr.Column(visible=False) as management:
        panel([{"kind": "heading", "text": "Who may sign in"}])
        with gr.Row(equal_height=False):
            name = gr.Textbox("", label="Name", max_lines=1, scale=1, min_width=200)
            role = gr.Radio(list(ROLES), value="labeler", label="Role", scale=2, min_width=300)
        with gr.Row(elem_classes="pawl-toolbar"):
            invite = gr.Button("Invite", variant="primary", scale=0, min_width=140)
        said = panel()
        listed = panel()
    numbers = [waiting, project, labelers, details, more, meanings]

    def on_load(request: gr.Request) -> tuple[Any, ...]:
        if (refusal := closed_to(context, request, "researcher")) is not None:
            return refusal, gr.Column(visible=False), gr.Column(visible=False), [], *[[]] * len(numbers)
        manages = is_admin(context, request)
        columns = gr.Column(visible=True), gr.Column(visible=manages)
        return [], *columns, people_of(context) if manages else [], *numbers_of(context, manages)

    def on_refresh(request: gr.Request) -> tuple[Blocks, ...]:
        allow(context, request, "researcher")
        return numbers_of(context, is_admin(context, request))

    def on_pick(event: gr.EventData, request: gr.Request) -> Blocks:
        allow(context, request, "researcher")
        names = names_of(context) if is_admin(context, request) else {}
        return plots.details_of(context.store.insight(), str(event.id), names)

    def on_admit(event: gr.EventData, request: gr.Request) -> tuple[Blocks, Blocks]:
        user = allow(context, request, "researcher")
        said = admitted(context, str(event.id), user.name)
        return said, waiting_of(context, names_of(context) if is_admin(context, request) else {})

    def on_invite(name: str, role: str, request: gr.Request) -> tuple[Blocks, Blocks, Any]:
        allow(context, request, "admin")
        said, taken = invited(context, name.strip(), role)
        return said, people_of(context), gr.skip() if not taken else ""

    def on_act(event: gr.EventData, request: gr.Request) -> tuple[Blocks, Blocks]:
        admin = allow(context, request, "admin")
        return acted(context, admin.name, str(event.id), str(event.act)), people_of(context)

    gr.on(None, on_load, None, [notice, body, management, listed, *numbers], **QUIET)
    refresh.click(on_refresh, None, numbers, **QUIET)
    labelers.pick(on_pick, None, details, **QUIET)
    waiting.act(on_admit, None, [let_in, waiting], **QUIET)
    gr.on([invite.click, name.submit], on_invite, [name, role], [said, listed, name], **QUIET)
    listed.act(on_act, None, [said, listed], **QUIET)


def is_admin(context: Context, request: gr.Request) -> bool:
    """Whether the person behind this event manages people."""
    user = context.auth.user_of(request)
    return user is not None and user.role == "admin"


def names_of(context: Context) -> dict[str, str]:
    """Names by pseudonym: for admins alone."""
    return {user.pseudonym: user.name for user in context.store.users()}


def numbers_of(context: Context, with_names: bool) -> tuple[Blocks, ...]:
    """The panels of the page: who waits, the project, labelers, nobody's details, what else there is, what it means."""
    found = context.store.insight()
    progress = found["project"]
    names = names_of(context) if with_names else {}
    labelers = found["labelers"]
    timed = plots.seconds_of(progress["seconds"]["rankings"], found["bins"], "Seconds per ranking, everybody's")
    return (
        waiting_of(context, names),
        [
            {"kind": "heading", "text": "Progress"},
            {"kind": "text", "text": f"As of {found['at'][:16].replace('T', ' ')} UTC."},
            plots.tiles_of(progress),
            plots.days_of(progress, names),
        ],
        [
            {"kind": "heading", "text": "Labelers"},
            plots.table_of(labelers, names),
            {"kind": "text", "text": f"{plots.shown_of(labelers)} An exclamation mark: more than chance."},
        ],
        [],
        [
            plots.agreement_of(labelers, names),
            plots.sways_of(progress),
            timed,
            plots.queue_of(progress),
            plots.sources_of(progress),
            plots.skips_of(progress["skips"]),
        ],
        plots.definitions_of(found["definitions"], ALPHA),
    )


def people_of(context: Context) -> Blocks:
    """Everyone who may sign in, or once might, with what an admin can do about them."""
    users = context.store.users()
    link = {"text": "New link", "act": "link"}
    disable = {"text": "Disable", "act": "disable", "sure": "Really disable?"}
    return [
        {
            "kind": "table",
            "columns": ["Name", "Role", "Pseudonym", "Active"],
            "rows": [[user.name, user.role, user.pseudonym, "yes" if user.active else "no"] for user in users],
            "keys": [user.name for user in users],
            "actions": [[link, disable] if user.active else [] for user in users],
            "wide": ["Pseudonym"],
            "empty": "Nobody yet.",
        }
    ]


def invited(context: Context, name: str, role: str) -> tuple[Blocks, bool]:
    """Add a person, and show the link that signs them in once; or say why not."""
    try:
        link = context.auth.invite(name, role)  # type: ignore[arg-type]  # the store refuses what is no role
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}], False
    return _link(f"{name} may now sign in as {role}.", link), True


def acted(context: Context, admin: str, name: str, act: str) -> Blocks:
    """A new link for this person, or the end of their access; no admin ends their own by a slip."""
    try:
        if act == "disable" and name == admin:
            told = "You cannot disable yourself here. Nothing was changed; another admin can."
            return [{"kind": "text", "tone": "warn", "text": told}]
        if act == "disable":
            context.store.disable_user(name)
            told = f"{name} is disabled: every session and token of theirs has ended. Their labels are kept."
            return [{"kind": "text", "tone": "good", "text": told}]
        return _link(f"A new link for {name}.", context.auth.link_path(name))
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}]


def _link(words: str, path: str) -> Blocks:
    told = f"{words} The link signs them in once, within a week, and is shown only now: copy it and send it to them."
    return [{"kind": "text", "tone": "good", "text": told}, {"kind": "copy", "label": "Sign-in link", "path": path}]
