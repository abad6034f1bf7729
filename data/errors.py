"""What can go wrong with feedback, one small tree.

FeedbackError
├── InvalidInput        what was sent cannot be stored: says which field and why (HTTP 422)
├── NotFound            no such task, prompt, user, snapshot, ... (HTTP 404)
├── Forbidden           signed in, but this role may not do this (HTTP 403)
├── NotSignedIn         no valid session or token (HTTP 401)
├── Conflict            true, but no longer: an expired or foreign lease, a name taken (HTTP 409)
│   └── TooFewLabels    training needs more labels; says how many of what
├── WorkspaceInUse      another process owns the store; names its url (HTTP 409)
├── DamagedSnapshot     files that no longer match their hash
├── SamplerFailed       the model that labelers talk to did not answer (HTTP 502)
└── StoreFailed         the disk or the database gave up; the app must stop (HTTP 503)

Every message says what, which one, what was kept, and what to do next, in words fit to show a labeler.
"""


class FeedbackError(Exception):
    """Base of every error that a person can mend. `title` is its short name in a problem document."""

    status = 400
    title = "Request refused"


class InvalidInput(FeedbackError):
    """What was sent cannot be stored."""

    status = 422
    title = "Invalid input"


class NotFound(FeedbackError):
    """Nothing by that name."""

    status = 404
    title = "Not found"


class NotSignedIn(FeedbackError):
    """No valid session or token."""

    status = 401
    title = "Not signed in"


class Forbidden(FeedbackError):
    """This role may not do this."""

    status = 403
    title = "Not allowed"


class Conflict(FeedbackError):
    """It cannot be done in the present state: an expired or foreign lease, a name that is taken."""

    status = 409
    title = "Conflict"


class TooFewLabels(Conflict):
    """Training needs more labels than there are."""

    title = "Too few labels"


class WorkspaceInUse(FeedbackError):
    """Another process owns the store of this workspace."""

    status = 409
    title = "Workspace in use"


class DamagedSnapshot(FeedbackError):
    """Files that no longer match the hash that names them."""

    status = 500
    title = "Damaged snapshot"


class SamplerFailed(FeedbackError):
    """The model that labelers talk to did not answer."""

    status = 502
    title = "The model did not answer"


class StoreFailed(FeedbackError):
    """The disk or the database gave up: acknowledged labels are safe, the app must be started again."""

    status = 503
    title = "Store failed"
