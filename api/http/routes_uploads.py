"""The routes of uploads: a source whole, or only those of its parts that are not here."""

from api.http import schema_deploy as sources
from api.http import schema_platform as p
from api.http.route import TEAM, Route

UPLOADS: tuple[Route, ...] = (
    Route(
        id="putUpload",
        method="PUT",
        path=TEAM + "/uploads/{sha256}",
        summary="Put a source: tar or tar.gz, named by its sha256.",
        answer=p.Uploaded,
        status=201,
        also=(200,),
        codes=(404, 413, 503),
        raw=True,
    ),
    Route(
        id="headUpload",
        method="HEAD",
        path=TEAM + "/uploads/{sha256}",
        summary="Whether this source is here already.",
        answer=p.Uploaded,
        codes=(404,),
    ),
    Route(
        id="joinUpload",
        method="POST",
        path=TEAM + "/uploads",
        summary="Make a source of its parts, or tell which of them are not here.",
        answer=sources.UploadJoined,
        body=sources.JoinUpload,
        status=201,
        also=(200,),
        codes=(404, 413, 429, 503),
    ),
    Route(
        id="putParts",
        method="POST",
        path=TEAM + "/uploads/parts",
        summary="Put parts of sources, each behind its length in 4 bytes, the highest first.",
        answer=sources.PartsKept,
        status=201,
        codes=(404, 413, 503),
        raw=True,
    ),
)
