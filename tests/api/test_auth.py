"""Who is asking: only the configured algorithm and key, and claims that are whole."""

from __future__ import annotations

import base64
import json
import time
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, RSAAlgorithm

from bichat.api.auth import Verifier
from bichat.config import Config
from bichat.errors import NotAuthenticated
from bichat.errors.unusable import WrongSetting
from tests.api.conftest import Api
from tests.api.tokens import SECRET, token
from tests.examples import TENANT

RSA, EC, OTHER = (
    rsa.generate_private_key(65537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP256R1()),
)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwks(**keys: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return json.dumps({"keys": [{**jwk(key), "kid": kid} for kid, key in keys.items()]})


def jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> dict[str, object]:
    if isinstance(key, rsa.RSAPrivateKey):
        return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return ECAlgorithm.to_jwk(key.public_key(), as_dict=True)


def test_a_good_token_says_who_asks() -> None:
    caller = Verifier(Config(bichat_jwt_secret=SECRET)).caller(
        f"Bearer {token('anna', roles=['user', 'ops'])}"
    )
    assert (caller.id, caller.tenant_id, set(caller.roles)) == ("anna", TENANT, {"user", "ops"})


def test_one_without_roles_is_a_users() -> None:
    assert Verifier(Config(bichat_jwt_secret=SECRET)).caller(f"bearer {token()}").roles == {"user"}


@pytest.mark.parametrize("kid", ["r", "e"])
def test_kid_selects_the_key_of_a_jwks(kid: str) -> None:
    verifier = Verifier(Config(bichat_jwt_public_key=jwks(r=RSA, e=EC)))
    key, algorithm = (RSA, "RS256") if kid == "r" else (EC, "ES256")
    assert verifier.caller(f"Bearer {token(key=key, algorithm=algorithm, kid=kid)}").id == "anna"
    for wrong in (None, "r" if kid == "e" else "e", "x"):
        with pytest.raises(NotAuthenticated):
            verifier.caller(f"Bearer {token(key=key, algorithm=algorithm, kid=wrong)}")


def test_a_public_key_in_pem_is_enough() -> None:
    verifier = Verifier(Config(bichat_jwt_public_key=pem(EC)))
    assert verifier.caller(f"Bearer {token(key=EC, algorithm='ES256', kid='any')}").id == "anna"
    with pytest.raises(NotAuthenticated):
        verifier.caller(f"Bearer {token(key=OTHER, algorithm='ES256')}")


def test_a_public_key_cannot_be_used_as_a_secret() -> None:
    public = pem(RSA)
    payload = base64.urlsafe_b64encode(
        json.dumps({"sub": "anna", "tenant": str(TENANT), "exp": time.time() + 60}).encode()
    )
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}')
    signed = b".".join(part.rstrip(b"=") for part in (head, payload))
    mac = HMACAlgorithm(HMACAlgorithm.SHA256).sign(signed, public.encode())
    forged = signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")
    with pytest.raises(NotAuthenticated):
        Verifier(Config(bichat_jwt_public_key=public)).caller(f"Bearer {forged.decode()}")


BAD = {
    "nothing": "",
    "another scheme": "Basic YTpi",
    "no token": "Bearer ",
    "junk": "Bearer a.b.c",
    "no signature": f"Bearer {token(key='', algorithm='none')}",
    "another secret": f"Bearer {token(key='another secret of at least 32 bytes')}",
    "another algorithm": f"Bearer {token(key=SECRET * 2, algorithm='HS512')}",
    "expired": f"Bearer {token(exp=int(time.time()) - 1)}",
    "no expiry": f"Bearer {token(exp=None)}",
    "an expiry that is none": f"Bearer {token(exp='soon')}",
    "not yet": f"Bearer {token(nbf=int(time.time()) + 3600)}",
    "nobody": f"Bearer {token('')}",
    "too long a name": f"Bearer {token('x' * 129)}",
    "a NUL in the name": f"Bearer {token(chr(0))}",
    "a lone surrogate in the name": f"Bearer {token(chr(0xD800))}",
    "a number for a name": f"Bearer {token(sub=None)}",
    "no tenant": f"Bearer {token(tenant=None)}",
    "a tenant that is none": f"Bearer {token(tenant='acme')}",
    "roles that are none": f"Bearer {token(roles='user')}",
    "far too long": f"Bearer {token(more='x' * 9000)}",
}


@pytest.mark.parametrize("header", BAD.values(), ids=BAD.keys())
def test_a_bad_token_is_refused(header: str) -> None:
    with pytest.raises(NotAuthenticated):
        Verifier(Config(bichat_jwt_secret=SECRET)).caller(header)


def test_issuer_and_audience_count_when_they_are_configured() -> None:
    verifier = Verifier(
        Config(bichat_jwt_secret=SECRET, bichat_jwt_issuer="idp", bichat_jwt_audience="bichat")
    )
    assert verifier.caller(f"Bearer {token(iss='idp', aud=['bichat', 'x'])}").id == "anna"
    for claims in (
        {},
        {"iss": "idp"},
        {"aud": "bichat"},
        {"iss": "idp", "aud": "x"},
        {"iss": "x", "aud": "bichat"},
    ):
        with pytest.raises(NotAuthenticated):
            verifier.caller(f"Bearer {token(**claims)}")
    assert Verifier(Config(bichat_jwt_secret=SECRET)).caller(f"Bearer {token(iss='x', aud='y')}").id == "anna"


def test_a_token_that_was_good_is_refused_once_it_expires() -> None:
    expires = int(time.time()) + 2
    verifier, header = Verifier(Config(bichat_jwt_secret=SECRET)), f"Bearer {token(exp=expires)}"
    assert verifier.caller(header)
    time.sleep(expires - time.time() + 0.01)
    with pytest.raises(NotAuthenticated):
        verifier.caller(header)


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN nothing",
        '{"keys": []}',
        '{"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]}',
        "{",
        jwks(a=EC)[:-1],
    ],
)
def test_a_key_of_no_use_stops_the_start(text: str) -> None:
    with pytest.raises(WrongSetting, match="BICHAT_JWT_PUBLIC_KEY"):
        Verifier(Config(bichat_jwt_public_key=text))


def test_over_http_it_is_401_and_403_and_tells_nothing(api: Api) -> None:
    with api.client(exp=1) as late, api.client(roles=["auditor"]) as auditor:
        told = late.get(f"/v1/dialogues/{uuid4()}")
        assert (told.status_code, told.headers["www-authenticate"]) == (401, "Bearer")
        assert told.headers["content-type"] == "application/problem+json"
        assert auditor.get("/v1/dialogues").status_code == 403
        assert auditor.post("/v1/dialogues", json={"message": "hi"}).json()["type"].endswith("Forbidden")
        assert auditor.get("/v1/usage").status_code == 403
    with api.client(roles=["ops"]) as ops:
        assert ops.get("/v1/usage").status_code == 200
        assert ops.get("/v1/dialogues").status_code == 403
