"""How each service says no: S3 in its XML, Lambda in JSON with a header, IAM, STS and CloudFormation in theirs."""

import json
import uuid
from xml.sax.saxutils import escape

from local_aws.http1 import Response

# kind of refusal -> (status, code) by S3, by Lambda, by the query services. S3's 400s are AWS's own.
CODES = {
    "bad_signature": (
        (403, "SignatureDoesNotMatch"),
        (403, "InvalidSignatureException"),
        (403, "SignatureDoesNotMatch"),
    ),
    "unknown_key": ((403, "InvalidAccessKeyId"), (403, "UnrecognizedClientException"), (403, "InvalidClientTokenId")),
    "bad_token": ((400, "InvalidToken"), (403, "UnrecognizedClientException"), (403, "InvalidClientTokenId")),
    "expired": ((400, "ExpiredToken"), (403, "ExpiredTokenException"), (403, "ExpiredToken")),
    "presigned_expired": ((403, "AccessDenied"), (403, "InvalidSignatureException"), (403, "SignatureDoesNotMatch")),
    "skewed": ((403, "RequestTimeTooSkewed"), (403, "InvalidSignatureException"), (403, "SignatureDoesNotMatch")),
    "missing": (
        (403, "AccessDenied"),
        (403, "MissingAuthenticationTokenException"),
        (403, "MissingAuthenticationToken"),
    ),
    "incomplete": (
        (400, "AuthorizationHeaderMalformed"),
        (403, "IncompleteSignatureException"),
        (403, "IncompleteSignature"),
    ),
    "bad_hash": (
        (400, "XAmzContentSHA256Mismatch"),
        (403, "InvalidSignatureException"),
        (403, "SignatureDoesNotMatch"),
    ),
    "denied": ((403, "AccessDenied"), (403, "AccessDeniedException"), (403, "AccessDenied")),
    "not_implemented": ((501, "NotImplemented"), (501, "NotImplemented"), (501, "NotImplemented")),
    "unavailable": ((503, "ServiceUnavailable"), (503, "ServiceUnavailableException"), (503, "ServiceUnavailable")),
}


def refusal(service: str, kind: str, text: str) -> Response:
    """The answer to a request that is not let in."""
    by_s3, by_lambda, by_query = CODES[kind]
    if service == "s3":
        return s3_error(*by_s3, text)
    if service == "lambda":
        return lambda_error(*by_lambda, text)
    return query_error(*by_query, text)


def s3_error(status: int, code: str, text: str) -> Response:
    """S3's own error document."""
    request_id = uuid.uuid4().hex[:16].upper()
    body = f"<Error><Code>{code}</Code><Message>{escape(text)}</Message><RequestId>{request_id}</RequestId></Error>"
    headers = [("Content-Type", "application/xml"), ("x-amz-request-id", request_id)]
    return Response(status, headers, f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode())


def lambda_error(
    status: int, code: str, text: str, *, headers: tuple[tuple[str, str], ...] = (), **more: str
) -> Response:
    """Lambda's error: JSON, with its code in a header."""
    body = {"message": text, **more}
    if 400 <= status < 500:
        body.setdefault("Type", "User")
    base = [("Content-Type", "application/json"), ("x-amzn-ErrorType", code), ("x-amzn-RequestId", str(uuid.uuid4()))]
    return Response(status, base + list(headers), json.dumps(body).encode())


def query_error(status: int, code: str, text: str) -> Response:
    """The error of the services that take forms and answer in XML."""
    request_id = str(uuid.uuid4())
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(text)}</Message></Error>"
    body = f"<ErrorResponse>{error}<RequestId>{request_id}</RequestId></ErrorResponse>"
    return Response(status, [("Content-Type", "text/xml"), ("x-amzn-RequestId", request_id)], body.encode())
