"""What is wrong with a template is said with its place, in one error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from istio_init.inject.template import RenderLimits, Template, TemplateError
from istio_init.inject.template.library import library
from istio_init.inject.template.sprig.refused import REASONS
from tests.unit.inject.templates import pod_data, render, render_old


def error_of(template: str, generation: str = "1.30") -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        Template.parse(template, generation).render(pod_data())  # type: ignore[arg-type]
    return caught.value


def outcome(template: str, generation: str) -> TemplateError | None:
    try:
        Template.parse(template, generation).render(pod_data())  # type: ignore[arg-type]
    except TemplateError as error:
        return error
    return None


PARSE = [
    ("{{ nosuch }}", 'there is no function "nosuch"'),
    ("{{ $x }}", "the variable $x is not declared"),
    ("{{ if true }}x", "the text ends before the {{end}} of this block"),
    ('{{ "a"', "the action is not closed with }}"),
    ("{{ (1 }}", "a left parenthesis is not closed"),
    ("{{ 1) }}", "a right parenthesis has no left one"),
    ("{{ end }}", "{{end}} belongs to nothing"),
    ("{{ break }}", "needs a {{range}} around it"),
    ("{{/* x", "the comment is not closed"),
    ("{{/* x */ }}", "the comment must end right before }}"),
    ('{{ "a }}', "the quoted string is not closed"),
    ("{{ `a }}", "the raw string is not closed"),
    ("{{ 'a }}", "the character constant is not closed"),
    ("{{ 'ab' }}", "must be one character"),
    ('{{ "\\q" }}', "is no escape"),
    ("{{ 1abc }}", '"1abc" is not a number'),
    ("{{ 08 }}", "08 is not a number"),
    ("{{ 1e999 }}", "does not fit in 64 bits"),
    ("{{ 0x1p99999 }}", "does not fit in 64 bits"),
    ("{{ 99999999999999999999 }}", "does not fit in 64 bits"),
    ("{{ 1+x }}", '"+x" is not a number'),
    ("{{ .a+1 }}", '"+" cannot follow ".a"'),
    ("{{ .. }}", "'.' cannot stand in an action"),
    ("{{ .@ }}", '"@" cannot follow "."'),
    ("{{ é@ }}", '"@" cannot follow "é"'),
    ("{{ \x01 }}", "has no meaning here"),
    ("{{ if }}a{{ end }}", "a if needs a value"),
    ("{{ 1 | 2 }}", "cannot take the value before the |"),
    ("{{ | 1 }}", "cannot stand in an action"),
    ("{{ nil.a }}", "nil has no fields"),
    ("{{ $a, $b := 1 }}", "cannot set so many variables"),
    ("{{ range $a, 1 := . }}{{ end }}", "the variables of a range"),
    ("{{ define `a` }}1{{ end }}{{ define `a` }}2{{ end }}", "is defined twice"),
    ("{{ define `a` }}1{{ else }}{{ end }}", "cannot stand in the definition"),
    ("{{ if 1 }}{{ else }}{{ else }}{{ end }}", "where {{end}} must be"),
    ("{{ print " + "(" * 80 + "1" + ")" * 80 + " }}", "more than 60 parentheses are nested"),
    ("{{ if 1 }}" * 80 + "{{ end }}" * 80, "more than 60 blocks are nested"),
    ("x" * 1_100_000, "longer than 1048576 characters"),
]


@pytest.mark.parametrize(("template", "message"), PARSE)
def test_what_cannot_be_parsed(template: str, message: str) -> None:
    error = error_of(template)
    assert error.stage == "parse"
    assert message in str(error)
    assert str(error).startswith("template inject, line 1, column ")


RUN = [
    ("{{ .NoSuch }}", '.NoSuch: a inject.SidecarTemplateData has no field "NoSuch"'),
    ("{{ .ObjectMeta.Nope.x }}", 'v1.ObjectMeta has no field "Nope"'),
    ("{{ .Spec.SecurityContext.RunAsUser }}", "the v1.PodSecurityContext is nil"),
    ("{{ .Spec.SecurityContext.Nope }}", 'v1.PodSecurityContext has no field "Nope"'),
    ("{{ .Spec.Containers.Name }}", '[]v1.Container has no field "Name"'),
    ("{{ .ObjectMeta.Name.x }}", 'a string has no field "x"'),
    ("{{ .Spec.TerminationGracePeriodSeconds.x }}", "the int64 is nil"),
    ("{{ .ObjectMeta.GetName 1 }}", "it takes no arguments, but gets 1"),
    ("{{ 1 | .ObjectMeta.GetName }}", "it takes no arguments, but gets 1"),
    ("{{ isset `x` `y` }}", "`x` stands where a map[string]string must be"),
    (
        "{{ isset .Values.global `y` }}",
        "a map[string]interface {} stands where a map[string]string",
    ),
    ("{{ toLower .Values.nope }}", "there is no value here, but a string must be"),
    ("{{ includeInboundPorts .Spec.Volumes }}", "a []v1.Volume stands where a []v1.Container"),
    ("{{ annotation .Spec `a` 1 }}", "a v1.PodSpec stands where a v1.ObjectMeta must be"),
    ("{{ annotation nil `a` 1 }}", "nil stands where a v1.ObjectMeta must be"),
    ("{{ protoToJSON .ObjectMeta }}", "stands where a protoreflect.ProtoMessage must be"),
    ("{{ formatDuration 5 }}", "5 stands where a *durationpb.Duration must be"),
    ("{{ formatDuration .ProxyConfig }}", "stands where a *durationpb.Duration must be"),
    ("{{ until .Values.global.port }}", "a float64 stands where a int must be"),
    ("{{ round 1.5 (add 1 1) }}", "a int64 stands where a int must be"),
    ("{{ round 1.5 1 `x` }}", "`x` stands where a float64 must be"),
    ("{{ ternary 1 2 3 }}", "3 stands where a bool must be"),
    ("{{ indent 2 }}", "indent takes 2 arguments, not 1"),
    ("{{ default }}", "default takes at least 1 arguments, not 0"),
    ("{{ and }}", "and needs an argument"),
    ("{{ 9223372036854775808 }}", "does not fit in an int"),
    ("{{ $x = 1 }}", "the variable $x is not declared"),
    ("{{ nil }}", "nil is no command"),
    ("{{ (nil).x }}", "nil is no command"),
    ("{{ template `t` }}", 'no template is called "t"'),
    ("{{ fail `boom` }}", "boom"),
    ("{{ range $i, $j := 3 }}{{ end }}", "a range over 3 has one variable"),
    ("{{ range true }}{{ end }}", "range cannot go over a bool"),
    ("{{ env `HOME` `x` }}", "templates may not read HOME from the environment"),
    ("{{ toYaml `\x7f` }}", "YAML cannot hold the character"),
    ("{{ `é` | trunc 1 }}", "the output is not UTF-8"),
    ("{{ printf `%b` 1.5 }}", "printf cannot print a float with %b"),
    ("{{ printf `%#v` .ObjectMeta }}", "printf cannot print a v1.ObjectMeta with %#v"),
]


@pytest.mark.parametrize(("template", "message"), RUN)
def test_what_cannot_be_rendered(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template.parse(template, "1.30").render(pod_data(environment={"HOME": "/root"}))
    assert caught.value.stage == "run"
    assert message in str(caught.value)


def test_the_place_of_an_error_counts_lines_and_bytes() -> None:
    error = error_of('first\nsecond\né {{ "x" | quote | nosuch }}')
    assert (error.line, error.column) == (3, 20)
    error = error_of("first\n{{ define `x` }}\n  é{{ .Nope }}{{ end }}{{ template `x` . }}")
    assert (error.name, error.line, error.column) == ("inject", 3, 7)
    assert error.fragment == ".Nope"


@pytest.mark.parametrize("name", sorted(set(REASONS) - {"env"}))
def test_a_function_that_would_not_be_pure_says_so(name: str) -> None:
    assert REASONS[name] in str(error_of(f"{{{{ {name} }}}}"))
    assert name in library("1.30").names


def test_the_old_generation_has_its_own_delimiters_and_no_sprig() -> None:
    assert render_old(
        "{{ x }} [[ .ObjectMeta.Name ]] [[ formatDuration .ProxyConfig.DrainDuration ]]"
    ) == ("{{ x }} web-1 2s")
    assert library("1.0").names == {
        *[
            "and",
            "call",
            "eq",
            "ge",
            "gt",
            "html",
            "index",
            "js",
            "le",
            "len",
            "lt",
            "ne",
            "not",
            "or",
            "print",
            "printf",
            "println",
            "slice",
        ],
        *["urlquery", "formatDuration", "isset"],
    }
    assert 'there is no function "quote"' in str(error_of('[[ quote "x" ]]', "1.0"))


LIMITS = [
    "{{ define `a` }}{{ template `a` . }}{{ end }}{{ template `a` }}",
    "{{ define `a` }}{{ template `a` . }}{{ template `a` . }}{{ end }}{{ template `a` }}",
    "{{ define `a` }}"
    + "{{ if true }}" * 50
    + "{{ template `a` . }}"
    + "{{ end }}" * 50
    + "{{ end }}{{ template `a` }}",
    "{{ range 1000000000 }}{{ end }}",
    "{{ range until 1000000000 }}{{ end }}",
    "{{ range until 90000 }}{{ range until 90000 }}x{{ end }}{{ end }}",
    "{{ range until 9000 }}{{ `" + "x" * 1000 + "` }}{{ end }}",
    "{{ range until 9000 }}" + "x" * 1000 + "{{ end }}",
    "{{ repeat 1000000000 `x` }}",
    "{{ $x := `aaaaaaaaaa` }}{{ range until 100 }}{{ $x = print $x $x }}{{ end }}",
    "{{ $x := list 1 }}{{ range until 100 }}{{ $x = concat $x $x }}{{ end }}",
    (
        "{{ $x := dict }}{{ range $i := until 900 }}"
        "{{ $_ := set $x (print $i) (repeat 900000 `x`) }}{{ end }}"
    ),
    "{{ printf `%10001d` 1 }}",
    "{{ printf `%*d` 20000 1 }}",
    "{{ indent 1000000000 `a\nb` }}",
    "{{ nindent 1000000000 `a` }}",
    "{{ replace `a` (repeat 9999 `b`) (repeat 9999 `a`) }}",
    "{{ join (repeat 9999 `b`) (until 9999) }}",
    "{{ seq 1 1000000000 }}",
    "{{ untilStep 0 1000000000 1 }}",
    "{{ splitList `` (repeat 1000000 `a`) }}",
    "{{ wrapWith 1 (repeat 99999 `x`) (repeat 99999 `y`) }}",
    "{{ uniq (until 9000) | len }}",
    "{{ regexMatch `(.*)(.*)(.*)x` (repeat 300000 `a`) }}",
    "{{ regexMatch `((a{1000}){1000}){1000}` `a` }}",
    "{{ regexMatch (repeat 2000 `a`) `a` }}",
    "{{ regexMatch (repeat 600 `(`) `a` }}",
    "{{ regexReplaceAll `` (repeat 1000 `a`) (repeat 99999 `b`) }}",
    "{{ html (repeat 900000 `<`) }}",
    '{{ quote (repeat 900000 `"`) }}',
    '{{ toJson (repeat 900000 `"`) }}',
    "{{ toYaml (repeat 900000 `'#`) }}",
    "{{ b64enc (repeat 900000 `a`) }}",
    "{{ round 1.5 400 }}",
    "{{ semverCompare (repeat 999 `>1 `) `1` }}",
]
DOUBLED = (
    "{{ $x := dict `a` `b` }}{{ $y := dict `a` `b` }}{{ range until 60 }}"
    "{{ $x = dict `a` $x `b` $x }}{{ $y = dict `a` $y `b` $y }}{{ end }}"
)
DEEP = "{{ $x := dict }}{{ range until 2000 }}{{ $x = dict `a` $x }}{{ end }}"
USES = [
    "$x",
    "printf `%v` $x",
    "printf `%d` $x",
    "printf `%#v` $x",
    "toYaml $x",
    "toJson $x",
    "omitNil $x",
    "deepCopy $x",
    "quote $x",
    "toPrettyJson $x",
    "html $x",
    "cat $x",
]


@pytest.mark.parametrize(
    "template",
    [
        *LIMITS,
        *(f"{DOUBLED}{{{{ {use} }}}}" for use in USES),
        DOUBLED + "{{ deepEqual $x $y }}",
        DOUBLED + "{{ merge $x $y }}",
        DOUBLED + "{{ set $x `z` $y }}",
        DOUBLED + "{{ has $x (list $y) }}",
        DOUBLED + "{{ dict `k` .ObjectMeta.Name `x` $x }}",
        DOUBLED + "{{ $_ := set $x `n` 1 }}{{ printf `%.1s` (list $x) }}",
        *(f"{DEEP}{{{{ {use} }}}}" for use in USES),
        "{{ $x := dict }}{{ $_ := set $x `a` $x }}",
        "{{ $x := dict }}{{ $y := list (dict `x` $x) }}{{ $_ := set $x `a` $y }}",
    ],
)
def test_a_hostile_template_ends_in_one_error(template: str) -> None:
    with pytest.raises(TemplateError):
        render(template)


def test_the_limits_can_be_set() -> None:
    template = Template.parse("{{ range until 100 }}xy{{ end }}", "1.30")
    assert len(template.render(pod_data())) == 200
    for limits, message in (
        (RenderLimits(output=100), "the output is longer than 100 characters"),
        (RenderLimits(steps=150), "needs more than 150 steps"),
        (RenderLimits(seconds=-1.0), "runs for more than -1.0 seconds"),
    ):
        with pytest.raises(TemplateError, match=message):
            Template.parse("{{ range until 1000 }}xy{{ end }}", "1.30").render(pod_data(), limits)


@settings(deadline=None)
@given(st.text("{}[]()|$.:=-\"`'/* abenrd\n1é,+"))
def test_any_text_is_a_template_or_an_error(text: str) -> None:
    for generation in ("1.0", "1.30"):
        error = outcome(text, generation)
        assert error is None or (error.line >= 1 and error.column >= 0)


WORDS = [
    "{{ ",
    " }}",
    "{{- ",
    " -}}",
    "if ",
    "else ",
    "end ",
    "range ",
    "with ",
    "define ",
    "template ",
    "block ",
    "break ",
    "continue ",
    "nil ",
    "$x ",
    "$ ",
    ". ",
    ".Values ",
    ".ObjectMeta.Name ",
    "`a` ",
    "1 ",
    "1.5 ",
    "( ",
    ") ",
    "| ",
    ":= ",
    "= ",
    ", ",
    "print ",
    "index ",
    "dict ",
    "list ",
    "quote ",
    "toYaml ",
    "text\n",
    "/* */",
    "eq ",
    "printf ",
    "'x' ",
    "true ",
]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=14))
def test_any_words_are_a_template_or_an_error(words: list[str]) -> None:
    error = outcome("{{ $x := 1 }}" + "".join(words), "1.30")
    assert error is None or error.stage in {"parse", "run"}
