"""The fields of a pod as Kubernetes' API declares them: names, order, types, merge keys.

From Kubernetes' API (core/v1 and meta/v1), release 1.35. Three things are read off this
one table: whether a value is of its field's type, how two lists are merged, and the JSON
that Kubernetes' own types would be written as.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

# A field is ``name:type``. Types: s text, i whole number, b truth value, q quantity,
# p port (number or text), a anything, a name of this table; [type] is a list of it and
# {type} a map. Marks: ! is written even when it is zero, * keeps its zero (it is a
# pointer), ~key merges lists by that key, ~ merges lists of texts as sets, + is younger than
# Kubernetes 1.11, whose types release 1.0 of Istio was built with.
_TABLE = """
Pod: apiVersion:s kind:s metadata:ObjectMeta spec:PodSpec status:a

ObjectMeta: name:s generateName:s namespace:s selfLink:s uid:s resourceVersion:s generation:i
 creationTimestamp:s deletionTimestamp:s deletionGracePeriodSeconds:i* labels:{s} annotations:{s}
 ownerReferences:[OwnerReference]~uid finalizers:[s]~ managedFields:[a]
OwnerReference: apiVersion:s! kind:s! name:s! uid:s! controller:b* blockOwnerDeletion:b*

PodSpec: volumes:[Volume]~name initContainers:[Container]~name containers:[Container]~name!
 ephemeralContainers:[EphemeralContainer]~name+ restartPolicy:s terminationGracePeriodSeconds:i*
 activeDeadlineSeconds:i* dnsPolicy:s nodeSelector:{s} serviceAccountName:s serviceAccount:s
 automountServiceAccountToken:b* nodeName:s hostNetwork:b hostPID:b hostIPC:b
 shareProcessNamespace:b* securityContext:PodSecurityContext
 imagePullSecrets:[LocalObjectReference]~name hostname:s subdomain:s affinity:Affinity
 schedulerName:s tolerations:[Toleration] hostAliases:[HostAlias]~ip priorityClassName:s
 priority:i* dnsConfig:PodDNSConfig readinessGates:[PodReadinessGate] runtimeClassName:s*+
 enableServiceLinks:b*+ preemptionPolicy:s*+ overhead:{q}+
 topologySpreadConstraints:[TopologySpreadConstraint]~topologyKey+ setHostnameAsFQDN:b*+ os:PodOS+
 hostUsers:b*+ schedulingGates:[PodSchedulingGate]~name+ resourceClaims:[PodResourceClaim]~name+
 resources:ResourceRequirements+ hostnameOverride:s*+ workloadRef:a+

Container: name:s! image:s command:[s] args:[s] workingDir:s ports:[ContainerPort]~containerPort
 envFrom:[EnvFromSource] env:[EnvVar]~name resources:ResourceRequirements!
 resizePolicy:[ContainerResizePolicy]+ restartPolicy:s*+ restartPolicyRules:[ContainerRestartRule]+
 volumeMounts:[VolumeMount]~mountPath volumeDevices:[VolumeDevice]~devicePath livenessProbe:Probe
 readinessProbe:Probe startupProbe:Probe+ lifecycle:Lifecycle terminationMessagePath:s
 terminationMessagePolicy:s imagePullPolicy:s securityContext:SecurityContext stdin:b stdinOnce:b
 tty:b
EphemeralContainer: Container targetContainerName:s
ContainerPort: name:s hostPort:i containerPort:i! protocol:s hostIP:s
EnvFromSource: prefix:s configMapRef:OptionalReference secretRef:OptionalReference
OptionalReference: name:s optional:b*
EnvVar: name:s! value:s valueFrom:EnvVarSource
EnvVarSource: fieldRef:ObjectFieldSelector resourceFieldRef:ResourceFieldSelector
 configMapKeyRef:KeySelector secretKeyRef:KeySelector fileKeyRef:FileKeySelector+
ObjectFieldSelector: apiVersion:s fieldPath:s!
ResourceFieldSelector: containerName:s resource:s! divisor:q
KeySelector: name:s key:s! optional:b*
FileKeySelector: volumeName:s! path:s! key:s! optional:b*
ResourceRequirements: limits:{q} requests:{q} claims:[ResourceClaim]+
ResourceClaim: name:s! request:s
ContainerResizePolicy: resourceName:s! restartPolicy:s!
ContainerRestartRule: action:s exitCodes:ContainerRestartRuleOnExitCodes
ContainerRestartRuleOnExitCodes: operator:s values:[i]
VolumeMount: name:s! readOnly:b recursiveReadOnly:s*+ mountPath:s! subPath:s
 mountPropagation:s* subPathExpr:s+
VolumeDevice: name:s! devicePath:s!
Probe: exec:ExecAction httpGet:HTTPGetAction tcpSocket:TCPSocketAction grpc:GRPCAction+
 initialDelaySeconds:i timeoutSeconds:i periodSeconds:i successThreshold:i failureThreshold:i
 terminationGracePeriodSeconds:i*+
Lifecycle: postStart:LifecycleHandler preStop:LifecycleHandler stopSignal:s*+
LifecycleHandler: exec:ExecAction httpGet:HTTPGetAction tcpSocket:TCPSocketAction sleep:SleepAction+
ExecAction: command:[s]
HTTPGetAction: path:s port:p! host:s scheme:s httpHeaders:[HTTPHeader]
HTTPHeader: name:s! value:s!
TCPSocketAction: port:p! host:s
GRPCAction: port:i! service:s*
SleepAction: seconds:i!
SecurityContext: capabilities:Capabilities privileged:b* seLinuxOptions:SELinuxOptions
 windowsOptions:WindowsSecurityContextOptions+ runAsUser:i* runAsGroup:i* runAsNonRoot:b*
 readOnlyRootFilesystem:b* allowPrivilegeEscalation:b* procMount:s*+ seccompProfile:SecurityProfile+
 appArmorProfile:SecurityProfile+
Capabilities: add:[s] drop:[s]
SELinuxOptions: user:s role:s type:s level:s
WindowsSecurityContextOptions: gmsaCredentialSpecName:s* gmsaCredentialSpec:s* runAsUserName:s*
 hostProcess:b*
SecurityProfile: type:s! localhostProfile:s*
PodSecurityContext: seLinuxOptions:SELinuxOptions windowsOptions:WindowsSecurityContextOptions+
 runAsUser:i* runAsGroup:i* runAsNonRoot:b* supplementalGroups:[i] supplementalGroupsPolicy:s*+
 fsGroup:i* sysctls:[Sysctl] fsGroupChangePolicy:s*+ seccompProfile:SecurityProfile+
 appArmorProfile:SecurityProfile+ seLinuxChangePolicy:s*+
Sysctl: name:s! value:s!
LocalObjectReference: name:s
Toleration: key:s operator:s value:s effect:s tolerationSeconds:i*
HostAlias: ip:s! hostnames:[s]
PodDNSConfig: nameservers:[s] searches:[s] options:[PodDNSConfigOption]
PodDNSConfigOption: name:s value:s*
PodReadinessGate: conditionType:s!
TopologySpreadConstraint: maxSkew:i! topologyKey:s! whenUnsatisfiable:s!
 labelSelector:LabelSelector minDomains:i* nodeAffinityPolicy:s* nodeTaintsPolicy:s*
 matchLabelKeys:[s]
PodOS: name:s!
PodSchedulingGate: name:s!
PodResourceClaim: name:s! resourceClaimName:s* resourceClaimTemplateName:s*
LabelSelector: matchLabels:{s} matchExpressions:[LabelSelectorRequirement]
LabelSelectorRequirement: key:s! operator:s! values:[s]
Affinity: nodeAffinity:NodeAffinity podAffinity:PodAffinity podAntiAffinity:PodAffinity
NodeAffinity: requiredDuringSchedulingIgnoredDuringExecution:NodeSelector
 preferredDuringSchedulingIgnoredDuringExecution:[PreferredSchedulingTerm]
NodeSelector: nodeSelectorTerms:[NodeSelectorTerm]!
PreferredSchedulingTerm: weight:i! preference:NodeSelectorTerm!
NodeSelectorTerm: matchExpressions:[LabelSelectorRequirement]
 matchFields:[LabelSelectorRequirement]
PodAffinity: requiredDuringSchedulingIgnoredDuringExecution:[PodAffinityTerm]
 preferredDuringSchedulingIgnoredDuringExecution:[WeightedPodAffinityTerm]
WeightedPodAffinityTerm: weight:i! podAffinityTerm:PodAffinityTerm!
PodAffinityTerm: labelSelector:LabelSelector namespaces:[s] topologyKey:s!
 namespaceSelector:LabelSelector matchLabelKeys:[s] mismatchLabelKeys:[s]

Volume: name:s! hostPath:HostPathVolumeSource emptyDir:EmptyDirVolumeSource
 gcePersistentDisk:a awsElasticBlockStore:a gitRepo:a secret:SecretVolumeSource nfs:NFSVolumeSource
 iscsi:a glusterfs:a persistentVolumeClaim:PersistentVolumeClaimVolumeSource rbd:a flexVolume:a
 cinder:a cephfs:a flocker:a downwardAPI:DownwardAPIVolumeSource fc:a azureFile:a
 configMap:ConfigMapVolumeSource vsphereVolume:a quobyte:a azureDisk:a photonPersistentDisk:a
 projected:ProjectedVolumeSource portworxVolume:a scaleIO:a storageos:a csi:CSIVolumeSource+
 ephemeral:a+ image:ImageVolumeSource+
HostPathVolumeSource: path:s! type:s*
EmptyDirVolumeSource: medium:s sizeLimit:q
SecretVolumeSource: secretName:s items:[KeyToPath] defaultMode:i* optional:b*
ConfigMapVolumeSource: name:s items:[KeyToPath] defaultMode:i* optional:b*
KeyToPath: key:s! path:s! mode:i*
NFSVolumeSource: server:s! path:s! readOnly:b
PersistentVolumeClaimVolumeSource: claimName:s! readOnly:b
DownwardAPIVolumeSource: items:[DownwardAPIVolumeFile] defaultMode:i*
DownwardAPIVolumeFile: path:s! fieldRef:ObjectFieldSelector
 resourceFieldRef:ResourceFieldSelector mode:i*
ProjectedVolumeSource: sources:[VolumeProjection]! defaultMode:i*
VolumeProjection: secret:SecretVolumeSource downwardAPI:DownwardAPIVolumeSource
 configMap:ConfigMapVolumeSource serviceAccountToken:ServiceAccountTokenProjection
 clusterTrustBundle:ClusterTrustBundleProjection+ podCertificate:a+
ServiceAccountTokenProjection: audience:s expirationSeconds:i* path:s!
ClusterTrustBundleProjection: name:s* signerName:s* labelSelector:LabelSelector optional:b* path:s!
CSIVolumeSource: driver:s! readOnly:b* fsType:s* volumeAttributes:{s}
 nodePublishSecretRef:LocalObjectReference
ImageVolumeSource: reference:s pullPolicy:s
"""


class Shape(Enum):
    """What a value looks like in JSON."""

    TEXT = auto()
    NUMBER = auto()
    TRUTH = auto()
    QUANTITY = auto()
    PORT = auto()
    ANY = auto()
    STRUCT = auto()
    LIST = auto()
    MAP = auto()


@dataclass(frozen=True, slots=True)
class FieldType:
    """A type: ``element`` is that of a list's or map's items, ``struct`` the name of a struct."""

    shape: Shape
    element: FieldType | None = None
    struct: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a struct.

    ``merge_key`` is None where a given list replaces the old one, and ``""`` for a list
    of texts that is merged as a set. ``always`` fields are written even when they are
    zero, ``pointer`` fields when they are given. ``young`` fields are unknown to release
    1.0 of Istio.
    """

    name: str
    type: FieldType
    merge_key: str | None = None
    always: bool = False
    pointer: bool = False
    young: bool = False


Struct = dict[str, Field]

_LETTERS = {
    "s": Shape.TEXT,
    "i": Shape.NUMBER,
    "b": Shape.TRUTH,
    "q": Shape.QUANTITY,
    "p": Shape.PORT,
    "a": Shape.ANY,
}


def _type(word: str) -> FieldType:
    if word[0] == "[":
        return FieldType(Shape.LIST, _type(word[1:-1]))
    if word[0] == "{":
        return FieldType(Shape.MAP, _type(word[1:-1]))
    if shape := _LETTERS.get(word):
        return FieldType(shape)
    return FieldType(Shape.STRUCT, None, word)


def _field(word: str) -> Field:
    name, _, rest = word.partition(":")
    rest, young = rest.removesuffix("+"), rest.endswith("+")
    rest, always = rest.removesuffix("!"), rest.endswith("!")
    rest, pointer = rest.removesuffix("*"), rest.endswith("*")
    kind, tilde, key = rest.partition("~")
    return Field(name, _type(kind), key if tilde else None, always, pointer, young)


def _structs() -> dict[str, Struct]:
    structs: dict[str, Struct] = {}
    struct: Struct = {}
    for word in _TABLE.split():
        if word.endswith(":"):
            struct = structs[word[:-1]] = {}
        elif ":" not in word:
            struct.update(structs[word])
        else:
            field = _field(word)
            struct[field.name] = field
    return structs


STRUCTS: dict[str, Struct] = _structs()

POD = FieldType(Shape.STRUCT, None, "Pod")
CONTAINER = FieldType(Shape.STRUCT, None, "Container")
VOLUME = FieldType(Shape.STRUCT, None, "Volume")
PROBE = FieldType(Shape.STRUCT, None, "Probe")
HANDLER = FieldType(Shape.STRUCT, None, "LifecycleHandler")


def struct_type(name: str) -> FieldType:
    """Return the type of the struct ``name``; a KeyError for one that the table lacks."""
    if name not in STRUCTS:
        raise KeyError(name)
    return FieldType(Shape.STRUCT, None, name)


JSON = Any
"""What JSON holds: dict, list, str, int, float, bool, None."""
