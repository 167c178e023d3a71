"""Which functions the templates of a generation have.

Sprig's are imported one module at a time, when a template uses one of its functions:
all of them take three times as long to import as what Istio's templates use.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Literal, TypeAlias

from istio_init.inject.template.builtins import BUILTINS
from istio_init.inject.template.istio import ISTIO_1_0, ISTIO_1_30

if TYPE_CHECKING:
    from istio_init.inject.template.functions import Function, Registry

Generation: TypeAlias = Literal["1.0", "1.30"]

SPRIG = {
    "refused": (
        "ago date date_in_zone date_modify dateInZone dateModify htmlDate htmlDateInZone "
        "must_date_modify mustDateModify mustToDate now toDate unixEpoch randAlphaNum "
        "randAlpha randAscii randNumeric randInt randBytes shuffle uuidv4 bcrypt htpasswd "
        "genPrivateKey derivePassword buildCustomCert genCA genCAWithKey genSelfSignedCert "
        "genSelfSignedCertWithKey genSignedCert genSignedCertWithKey encryptAES decryptAES "
        "expandenv env getHostByName"
    ),
    "text": (
        "hello trim upper lower repeat trimall trimAll trimSuffix trimPrefix contains "
        "hasPrefix hasSuffix quote squote cat indent nindent replace plural toString "
        "toStrings trunc substr join splitList split splitn abbrev abbrevboth wrap wrapWith "
        "fail"
    ),
    "words": "title untitle swapcase nospace initials camelcase snakecase kebabcase",
    "numbers": (
        "atoi int64 int float64 toDecimal add1 add sub mul div mod max biggest min maxf minf "
        "floor ceil round add1f addf subf mulf divf until untilStep seq"
    ),
    "lists": (
        "list tuple append push mustAppend mustPush prepend mustPrepend first mustFirst last "
        "mustLast rest mustRest initial mustInitial reverse mustReverse compact mustCompact "
        "uniq mustUniq without mustWithout has mustHas slice mustSlice concat chunk mustChunk "
        "sortAlpha default empty coalesce all any ternary typeOf typeIs typeIsLike kindOf "
        "kindIs deepEqual"
    ),
    "maps": (
        "dict get set unset hasKey pluck keys values pick omit merge mustMerge mergeOverwrite "
        "mustMergeOverwrite deepCopy mustDeepCopy dig"
    ),
    "encoding": (
        "b64enc b64dec b32enc b32dec sha1sum sha256sum sha512sum adler32sum fromJson "
        "mustFromJson toJson mustToJson toPrettyJson mustToPrettyJson toRawJson mustToRawJson"
    ),
    "paths": (
        "base osBase dir osDir clean osClean ext osExt isAbs osIsAbs urlParse urlJoin "
        "duration durationRound"
    ),
    "patterns": (
        "regexMatch mustRegexMatch regexFind mustRegexFind regexFindAll mustRegexFindAll "
        "regexReplaceAll mustRegexReplaceAll regexReplaceAllLiteral "
        "mustRegexReplaceAllLiteral regexSplit mustRegexSplit regexQuoteMeta"
    ),
    "versions": "semverCompare semver",
}

# These change a map that the template may have been given.
MUTATING = frozenset({"set", "unset", "merge", "mergeOverwrite", "mustMerge", "mustMergeOverwrite"})


class Library:
    """The functions of one generation by name; Istio's win over sprig's, those over Go's."""

    def __init__(self, registries: tuple[Registry, ...], modules: dict[str, str]) -> None:
        self.loaded: dict[str, Function] = {}
        for registry in registries:
            self.loaded.update(registry)
        own = registries[-1]
        self.modules = {
            name: module
            for module, names in modules.items()
            for name in names.split()
            if name not in own
        }
        self.names = frozenset({*self.loaded, *self.modules})

    def __getitem__(self, name: str) -> Function:
        """Return a function; raises KeyError for a name that is not in ``names``."""
        module = self.modules.pop(name, None)
        if module is not None:
            found = import_module(f"istio_init.inject.template.sprig.{module}").FUNCTIONS
            self.loaded[name] = found[name]
        return self.loaded[name]


@cache
def library(generation: Generation) -> Library:
    """Return the functions of a generation's templates."""
    if generation == "1.0":
        return Library((BUILTINS, ISTIO_1_0), {})
    return Library((BUILTINS, ISTIO_1_30), SPRIG)
