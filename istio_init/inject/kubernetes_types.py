"""The Go names of the fields of Kubernetes' types that a template can reach.

One type to an entry, with its fields in the order of the Go struct: ``Name:key:type``.
The key is the field's in JSON, with ``?`` behind it if JSON leaves a zero value out; a key
that is absent is the name with a small first letter, a type that is absent is string. A
field with the key ``-`` is an embedded struct, whose own fields follow. ``%`` stands for
``map[string]``. Source: k8s.io/api v0.35.0, core/v1 and meta/v1.
"""

KUBERNETES = """
v1.AWSElasticBlockStoreVolumeSource VolumeID FSType:fsType? Partition:?:int32 ReadOnly:?:bool
v1.Affinity NodeAffinity:?:*v1.NodeAffinity PodAffinity:?:*v1.PodAffinity
  PodAntiAffinity:?:*v1.PodAntiAffinity
v1.AppArmorProfile Type LocalhostProfile:?:*string
v1.AzureDiskVolumeSource DiskName DataDiskURI:diskURI CachingMode:?:*string FSType:fsType?:*string
  ReadOnly:?:*bool Kind:?:*string
v1.AzureFileVolumeSource SecretName ShareName ReadOnly:?:bool
v1.CSIVolumeSource Driver ReadOnly:?:*bool FSType:fsType?:*string VolumeAttributes:?:%string
  NodePublishSecretRef:?:*v1.LocalObjectReference
v1.Capabilities Add:?:[]string Drop:?:[]string
v1.CephFSVolumeSource Monitors::[]string Path:? User:? SecretFile:?
  SecretRef:?:*v1.LocalObjectReference ReadOnly:?:bool
v1.CinderVolumeSource VolumeID FSType:fsType? ReadOnly:?:bool SecretRef:?:*v1.LocalObjectReference
v1.ClusterTrustBundleProjection Name:?:*string SignerName:?:*string
  LabelSelector:?:*v1.LabelSelector Optional:?:*bool Path
v1.ConfigMapEnvSource LocalObjectReference:-:v1.LocalObjectReference Name:? Optional:?:*bool
v1.ConfigMapKeySelector LocalObjectReference:-:v1.LocalObjectReference Name:? Key Optional:?:*bool
v1.ConfigMapProjection LocalObjectReference:-:v1.LocalObjectReference Name:?
  Items:?:[]v1.KeyToPath Optional:?:*bool
v1.ConfigMapVolumeSource LocalObjectReference:-:v1.LocalObjectReference Name:?
  Items:?:[]v1.KeyToPath DefaultMode:?:*int32 Optional:?:*bool
v1.Container Name Image:? Command:?:[]string Args:?:[]string WorkingDir:?
  Ports:?:[]v1.ContainerPort EnvFrom:?:[]v1.EnvFromSource Env:?:[]v1.EnvVar
  Resources:?:v1.ResourceRequirements ResizePolicy:?:[]v1.ContainerResizePolicy
  RestartPolicy:?:*string RestartPolicyRules:?:[]v1.ContainerRestartRule
  VolumeMounts:?:[]v1.VolumeMount VolumeDevices:?:[]v1.VolumeDevice LivenessProbe:?:*v1.Probe
  ReadinessProbe:?:*v1.Probe StartupProbe:?:*v1.Probe Lifecycle:?:*v1.Lifecycle
  TerminationMessagePath:? TerminationMessagePolicy:? ImagePullPolicy:?
  SecurityContext:?:*v1.SecurityContext Stdin:?:bool StdinOnce:?:bool TTY:tty?:bool
v1.ContainerPort Name:? HostPort:?:int32 ContainerPort::int32 Protocol:? HostIP:?
v1.ContainerResizePolicy ResourceName RestartPolicy
v1.ContainerRestartRule Action:? ExitCodes:?:*v1.ContainerRestartRuleOnExitCodes
v1.ContainerRestartRuleOnExitCodes Operator:? Values:?:[]int32
v1.DownwardAPIProjection Items:?:[]v1.DownwardAPIVolumeFile
v1.DownwardAPIVolumeFile Path FieldRef:?:*v1.ObjectFieldSelector
  ResourceFieldRef:?:*v1.ResourceFieldSelector Mode:?:*int32
v1.DownwardAPIVolumeSource Items:?:[]v1.DownwardAPIVolumeFile DefaultMode:?:*int32
v1.EmptyDirVolumeSource Medium:? SizeLimit:?:*resource.Quantity
v1.EnvFromSource Prefix:? ConfigMapRef:?:*v1.ConfigMapEnvSource SecretRef:?:*v1.SecretEnvSource
v1.EnvVar Name Value:? ValueFrom:?:*v1.EnvVarSource
v1.EnvVarSource FieldRef:?:*v1.ObjectFieldSelector ResourceFieldRef:?:*v1.ResourceFieldSelector
  ConfigMapKeyRef:?:*v1.ConfigMapKeySelector SecretKeyRef:?:*v1.SecretKeySelector
  FileKeyRef:?:*v1.FileKeySelector
v1.EphemeralContainer EphemeralContainerCommon:-:v1.EphemeralContainerCommon Name Image:?
  Command:?:[]string Args:?:[]string WorkingDir:? Ports:?:[]v1.ContainerPort
  EnvFrom:?:[]v1.EnvFromSource Env:?:[]v1.EnvVar Resources:?:v1.ResourceRequirements
  ResizePolicy:?:[]v1.ContainerResizePolicy RestartPolicy:?:*string
  RestartPolicyRules:?:[]v1.ContainerRestartRule VolumeMounts:?:[]v1.VolumeMount
  VolumeDevices:?:[]v1.VolumeDevice LivenessProbe:?:*v1.Probe ReadinessProbe:?:*v1.Probe
  StartupProbe:?:*v1.Probe Lifecycle:?:*v1.Lifecycle TerminationMessagePath:?
  TerminationMessagePolicy:? ImagePullPolicy:? SecurityContext:?:*v1.SecurityContext Stdin:?:bool
  StdinOnce:?:bool TTY:tty?:bool TargetContainerName:?
v1.EphemeralContainerCommon Name Image:? Command:?:[]string Args:?:[]string WorkingDir:?
  Ports:?:[]v1.ContainerPort EnvFrom:?:[]v1.EnvFromSource Env:?:[]v1.EnvVar
  Resources:?:v1.ResourceRequirements ResizePolicy:?:[]v1.ContainerResizePolicy
  RestartPolicy:?:*string RestartPolicyRules:?:[]v1.ContainerRestartRule
  VolumeMounts:?:[]v1.VolumeMount VolumeDevices:?:[]v1.VolumeDevice LivenessProbe:?:*v1.Probe
  ReadinessProbe:?:*v1.Probe StartupProbe:?:*v1.Probe Lifecycle:?:*v1.Lifecycle
  TerminationMessagePath:? TerminationMessagePolicy:? ImagePullPolicy:?
  SecurityContext:?:*v1.SecurityContext Stdin:?:bool StdinOnce:?:bool TTY:tty?:bool
v1.EphemeralVolumeSource VolumeClaimTemplate:?:*v1.PersistentVolumeClaimTemplate
v1.ExecAction Command:?:[]string
v1.FCVolumeSource TargetWWNs:?:[]string Lun:?:*int32 FSType:fsType? ReadOnly:?:bool
  WWIDs:wwids?:[]string
v1.FileKeySelector VolumeName Path Key Optional:?:*bool
v1.FlexVolumeSource Driver FSType:fsType? SecretRef:?:*v1.LocalObjectReference ReadOnly:?:bool
  Options:?:%string
v1.FlockerVolumeSource DatasetName:? DatasetUUID:?
v1.GCEPersistentDiskVolumeSource PDName:pdName FSType:fsType? Partition:?:int32 ReadOnly:?:bool
v1.GRPCAction Port::int32 Service::*string
v1.GitRepoVolumeSource Repository Revision:? Directory:?
v1.GlusterfsVolumeSource EndpointsName:endpoints Path ReadOnly:?:bool
v1.HTTPGetAction Path:? Port::intstr.IntOrString Host:? Scheme:?
  HTTPHeaders:httpHeaders?:[]v1.HTTPHeader
v1.HTTPHeader Name Value
v1.HostAlias IP:ip Hostnames:?:[]string
v1.HostPathVolumeSource Path Type:?:*string
v1.ISCSIVolumeSource TargetPortal IQN:iqn Lun::int32 ISCSIInterface:iscsiInterface? FSType:fsType?
  ReadOnly:?:bool Portals:?:[]string DiscoveryCHAPAuth:chapAuthDiscovery?:bool
  SessionCHAPAuth:chapAuthSession?:bool SecretRef:?:*v1.LocalObjectReference
  InitiatorName:?:*string
v1.ImageVolumeSource Reference:? PullPolicy:?
v1.KeyToPath Key Path Mode:?:*int32
v1.LabelSelector MatchLabels:?:%string MatchExpressions:?:[]v1.LabelSelectorRequirement
v1.LabelSelectorRequirement Key Operator Values:?:[]string
v1.Lifecycle PostStart:?:*v1.LifecycleHandler PreStop:?:*v1.LifecycleHandler StopSignal:?:*string
v1.LifecycleHandler Exec:?:*v1.ExecAction HTTPGet:httpGet?:*v1.HTTPGetAction
  TCPSocket:tcpSocket?:*v1.TCPSocketAction Sleep:?:*v1.SleepAction
v1.LocalObjectReference Name:?
v1.ManagedFieldsEntry Manager:? Operation:? APIVersion:apiVersion? Time:?:*v1.Time FieldsType:?
  FieldsV1:?:*v1.FieldsV1 Subresource:?
v1.NFSVolumeSource Server Path ReadOnly:?:bool
v1.NodeAffinity RequiredDuringSchedulingIgnoredDuringExecution:?:*v1.NodeSelector
  PreferredDuringSchedulingIgnoredDuringExecution:?:[]v1.PreferredSchedulingTerm
v1.NodeSelector NodeSelectorTerms::[]v1.NodeSelectorTerm
v1.NodeSelectorRequirement Key Operator Values:?:[]string
v1.NodeSelectorTerm MatchExpressions:?:[]v1.NodeSelectorRequirement
  MatchFields:?:[]v1.NodeSelectorRequirement
v1.ObjectFieldSelector APIVersion:apiVersion? FieldPath
v1.ObjectMeta Name:? GenerateName:? Namespace:? SelfLink:? UID:uid? ResourceVersion:?
  Generation:?:int64 CreationTimestamp:?:v1.Time DeletionTimestamp:?:*v1.Time
  DeletionGracePeriodSeconds:?:*int64 Labels:?:%string Annotations:?:%string
  OwnerReferences:?:[]v1.OwnerReference Finalizers:?:[]string
  ManagedFields:?:[]v1.ManagedFieldsEntry
v1.OwnerReference APIVersion:apiVersion Kind Name UID:uid Controller:?:*bool
  BlockOwnerDeletion:?:*bool
v1.PersistentVolumeClaimSpec AccessModes:?:[]string Selector:?:*v1.LabelSelector
  Resources:?:v1.VolumeResourceRequirements VolumeName:? StorageClassName:?:*string
  VolumeMode:?:*string DataSource:?:*v1.TypedLocalObjectReference
  DataSourceRef:?:*v1.TypedObjectReference VolumeAttributesClassName:?:*string
v1.PersistentVolumeClaimTemplate ObjectMeta:metadata?:v1.ObjectMeta
  Spec::v1.PersistentVolumeClaimSpec
v1.PersistentVolumeClaimVolumeSource ClaimName ReadOnly:?:bool
v1.PhotonPersistentDiskVolumeSource PdID FSType:fsType?
v1.PodAffinity RequiredDuringSchedulingIgnoredDuringExecution:?:[]v1.PodAffinityTerm
  PreferredDuringSchedulingIgnoredDuringExecution:?:[]v1.WeightedPodAffinityTerm
v1.PodAffinityTerm LabelSelector:?:*v1.LabelSelector Namespaces:?:[]string TopologyKey
  NamespaceSelector:?:*v1.LabelSelector MatchLabelKeys:?:[]string MismatchLabelKeys:?:[]string
v1.PodAntiAffinity RequiredDuringSchedulingIgnoredDuringExecution:?:[]v1.PodAffinityTerm
  PreferredDuringSchedulingIgnoredDuringExecution:?:[]v1.WeightedPodAffinityTerm
v1.PodCertificateProjection SignerName:? KeyType:? MaxExpirationSeconds:?:*int32
  CredentialBundlePath:? KeyPath:? CertificateChainPath:? UserAnnotations:?:%string
v1.PodDNSConfig Nameservers:?:[]string Searches:?:[]string Options:?:[]v1.PodDNSConfigOption
v1.PodDNSConfigOption Name:? Value:?:*string
v1.PodOS Name
v1.PodReadinessGate ConditionType
v1.PodResourceClaim Name ResourceClaimName:?:*string ResourceClaimTemplateName:?:*string
v1.PodSchedulingGate Name
v1.PodSecurityContext SELinuxOptions:seLinuxOptions?:*v1.SELinuxOptions
  WindowsOptions:?:*v1.WindowsSecurityContextOptions RunAsUser:?:*int64 RunAsGroup:?:*int64
  RunAsNonRoot:?:*bool SupplementalGroups:?:[]int64 SupplementalGroupsPolicy:?:*string
  FSGroup:fsGroup?:*int64 Sysctls:?:[]v1.Sysctl FSGroupChangePolicy:fsGroupChangePolicy?:*string
  SeccompProfile:?:*v1.SeccompProfile AppArmorProfile:?:*v1.AppArmorProfile
  SELinuxChangePolicy:seLinuxChangePolicy?:*string
v1.PodSpec Volumes:?:[]v1.Volume InitContainers:?:[]v1.Container Containers::[]v1.Container
  EphemeralContainers:?:[]v1.EphemeralContainer RestartPolicy:?
  TerminationGracePeriodSeconds:?:*int64 ActiveDeadlineSeconds:?:*int64 DNSPolicy:dnsPolicy?
  NodeSelector:?:%string ServiceAccountName:? DeprecatedServiceAccount:serviceAccount?
  AutomountServiceAccountToken:?:*bool NodeName:? HostNetwork:?:bool HostPID:?:bool HostIPC:?:bool
  ShareProcessNamespace:?:*bool SecurityContext:?:*v1.PodSecurityContext
  ImagePullSecrets:?:[]v1.LocalObjectReference Hostname:? Subdomain:? Affinity:?:*v1.Affinity
  SchedulerName:? Tolerations:?:[]v1.Toleration HostAliases:?:[]v1.HostAlias PriorityClassName:?
  Priority:?:*int32 DNSConfig:dnsConfig?:*v1.PodDNSConfig ReadinessGates:?:[]v1.PodReadinessGate
  RuntimeClassName:?:*string EnableServiceLinks:?:*bool PreemptionPolicy:?:*string
  Overhead:?:%resource.Quantity TopologySpreadConstraints:?:[]v1.TopologySpreadConstraint
  SetHostnameAsFQDN:?:*bool OS:os?:*v1.PodOS HostUsers:?:*bool
  SchedulingGates:?:[]v1.PodSchedulingGate ResourceClaims:?:[]v1.PodResourceClaim
  Resources:?:*v1.ResourceRequirements HostnameOverride:?:*string
  WorkloadRef:?:*v1.WorkloadReference
v1.PortworxVolumeSource VolumeID FSType:fsType? ReadOnly:?:bool
v1.PreferredSchedulingTerm Weight::int32 Preference::v1.NodeSelectorTerm
v1.Probe ProbeHandler:-:v1.ProbeHandler Exec:?:*v1.ExecAction HTTPGet:httpGet?:*v1.HTTPGetAction
  TCPSocket:tcpSocket?:*v1.TCPSocketAction GRPC:grpc?:*v1.GRPCAction InitialDelaySeconds:?:int32
  TimeoutSeconds:?:int32 PeriodSeconds:?:int32 SuccessThreshold:?:int32 FailureThreshold:?:int32
  TerminationGracePeriodSeconds:?:*int64
v1.ProbeHandler Exec:?:*v1.ExecAction HTTPGet:httpGet?:*v1.HTTPGetAction
  TCPSocket:tcpSocket?:*v1.TCPSocketAction GRPC:grpc?:*v1.GRPCAction
v1.ProjectedVolumeSource Sources::[]v1.VolumeProjection DefaultMode:?:*int32
v1.QuobyteVolumeSource Registry Volume ReadOnly:?:bool User:? Group:? Tenant:?
v1.RBDVolumeSource CephMonitors:monitors:[]string RBDImage:image FSType:fsType? RBDPool:pool?
  RadosUser:user? Keyring:? SecretRef:?:*v1.LocalObjectReference ReadOnly:?:bool
v1.ResourceClaim Name Request:?
v1.ResourceFieldSelector ContainerName:? Resource Divisor:?:resource.Quantity
v1.ResourceRequirements Limits:?:%resource.Quantity Requests:?:%resource.Quantity
  Claims:?:[]v1.ResourceClaim
v1.SELinuxOptions User:? Role:? Type:? Level:?
v1.ScaleIOVolumeSource Gateway System SecretRef::*v1.LocalObjectReference
  SSLEnabled:sslEnabled?:bool ProtectionDomain:? StoragePool:? StorageMode:? VolumeName:?
  FSType:fsType? ReadOnly:?:bool
v1.SeccompProfile Type LocalhostProfile:?:*string
v1.SecretEnvSource LocalObjectReference:-:v1.LocalObjectReference Name:? Optional:?:*bool
v1.SecretKeySelector LocalObjectReference:-:v1.LocalObjectReference Name:? Key Optional:?:*bool
v1.SecretProjection LocalObjectReference:-:v1.LocalObjectReference Name:? Items:?:[]v1.KeyToPath
  Optional:?:*bool
v1.SecretVolumeSource SecretName:? Items:?:[]v1.KeyToPath DefaultMode:?:*int32 Optional:?:*bool
v1.SecurityContext Capabilities:?:*v1.Capabilities Privileged:?:*bool
  SELinuxOptions:seLinuxOptions?:*v1.SELinuxOptions
  WindowsOptions:?:*v1.WindowsSecurityContextOptions RunAsUser:?:*int64 RunAsGroup:?:*int64
  RunAsNonRoot:?:*bool ReadOnlyRootFilesystem:?:*bool AllowPrivilegeEscalation:?:*bool
  ProcMount:?:*string SeccompProfile:?:*v1.SeccompProfile AppArmorProfile:?:*v1.AppArmorProfile
v1.ServiceAccountTokenProjection Audience:? ExpirationSeconds:?:*int64 Path
v1.SleepAction Seconds::int64
v1.StorageOSVolumeSource VolumeName:? VolumeNamespace:? FSType:fsType? ReadOnly:?:bool
  SecretRef:?:*v1.LocalObjectReference
v1.Sysctl Name Value
v1.TCPSocketAction Port::intstr.IntOrString Host:?
v1.Toleration Key:? Operator:? Value:? Effect:? TolerationSeconds:?:*int64
v1.TopologySpreadConstraint MaxSkew::int32 TopologyKey WhenUnsatisfiable
  LabelSelector:?:*v1.LabelSelector MinDomains:?:*int32 NodeAffinityPolicy:?:*string
  NodeTaintsPolicy:?:*string MatchLabelKeys:?:[]string
v1.TypeMeta Kind:? APIVersion:apiVersion?
v1.TypedLocalObjectReference APIGroup:apiGroup:*string Kind Name
v1.TypedObjectReference APIGroup:apiGroup:*string Kind Name Namespace:?:*string
v1.Volume Name VolumeSource:-:v1.VolumeSource HostPath:?:*v1.HostPathVolumeSource
  EmptyDir:?:*v1.EmptyDirVolumeSource
  GCEPersistentDisk:gcePersistentDisk?:*v1.GCEPersistentDiskVolumeSource
  AWSElasticBlockStore:awsElasticBlockStore?:*v1.AWSElasticBlockStoreVolumeSource
  GitRepo:?:*v1.GitRepoVolumeSource Secret:?:*v1.SecretVolumeSource NFS:nfs?:*v1.NFSVolumeSource
  ISCSI:iscsi?:*v1.ISCSIVolumeSource Glusterfs:?:*v1.GlusterfsVolumeSource
  PersistentVolumeClaim:?:*v1.PersistentVolumeClaimVolumeSource RBD:rbd?:*v1.RBDVolumeSource
  FlexVolume:?:*v1.FlexVolumeSource Cinder:?:*v1.CinderVolumeSource
  CephFS:cephfs?:*v1.CephFSVolumeSource Flocker:?:*v1.FlockerVolumeSource
  DownwardAPI:?:*v1.DownwardAPIVolumeSource FC:fc?:*v1.FCVolumeSource
  AzureFile:?:*v1.AzureFileVolumeSource ConfigMap:?:*v1.ConfigMapVolumeSource
  VsphereVolume:?:*v1.VsphereVirtualDiskVolumeSource Quobyte:?:*v1.QuobyteVolumeSource
  AzureDisk:?:*v1.AzureDiskVolumeSource
  PhotonPersistentDisk:?:*v1.PhotonPersistentDiskVolumeSource
  Projected:?:*v1.ProjectedVolumeSource PortworxVolume:?:*v1.PortworxVolumeSource
  ScaleIO:?:*v1.ScaleIOVolumeSource StorageOS:storageos?:*v1.StorageOSVolumeSource
  CSI:csi?:*v1.CSIVolumeSource Ephemeral:?:*v1.EphemeralVolumeSource Image:?:*v1.ImageVolumeSource
v1.VolumeDevice Name DevicePath
v1.VolumeMount Name ReadOnly:?:bool RecursiveReadOnly:?:*string MountPath SubPath:?
  MountPropagation:?:*string SubPathExpr:?
v1.VolumeProjection Secret:?:*v1.SecretProjection DownwardAPI:?:*v1.DownwardAPIProjection
  ConfigMap:?:*v1.ConfigMapProjection ServiceAccountToken:?:*v1.ServiceAccountTokenProjection
  ClusterTrustBundle:?:*v1.ClusterTrustBundleProjection
  PodCertificate:?:*v1.PodCertificateProjection
v1.VolumeResourceRequirements Limits:?:%resource.Quantity Requests:?:%resource.Quantity
v1.VolumeSource HostPath:?:*v1.HostPathVolumeSource EmptyDir:?:*v1.EmptyDirVolumeSource
  GCEPersistentDisk:gcePersistentDisk?:*v1.GCEPersistentDiskVolumeSource
  AWSElasticBlockStore:awsElasticBlockStore?:*v1.AWSElasticBlockStoreVolumeSource
  GitRepo:?:*v1.GitRepoVolumeSource Secret:?:*v1.SecretVolumeSource NFS:nfs?:*v1.NFSVolumeSource
  ISCSI:iscsi?:*v1.ISCSIVolumeSource Glusterfs:?:*v1.GlusterfsVolumeSource
  PersistentVolumeClaim:?:*v1.PersistentVolumeClaimVolumeSource RBD:rbd?:*v1.RBDVolumeSource
  FlexVolume:?:*v1.FlexVolumeSource Cinder:?:*v1.CinderVolumeSource
  CephFS:cephfs?:*v1.CephFSVolumeSource Flocker:?:*v1.FlockerVolumeSource
  DownwardAPI:?:*v1.DownwardAPIVolumeSource FC:fc?:*v1.FCVolumeSource
  AzureFile:?:*v1.AzureFileVolumeSource ConfigMap:?:*v1.ConfigMapVolumeSource
  VsphereVolume:?:*v1.VsphereVirtualDiskVolumeSource Quobyte:?:*v1.QuobyteVolumeSource
  AzureDisk:?:*v1.AzureDiskVolumeSource
  PhotonPersistentDisk:?:*v1.PhotonPersistentDiskVolumeSource
  Projected:?:*v1.ProjectedVolumeSource PortworxVolume:?:*v1.PortworxVolumeSource
  ScaleIO:?:*v1.ScaleIOVolumeSource StorageOS:storageos?:*v1.StorageOSVolumeSource
  CSI:csi?:*v1.CSIVolumeSource Ephemeral:?:*v1.EphemeralVolumeSource Image:?:*v1.ImageVolumeSource
v1.VsphereVirtualDiskVolumeSource VolumePath FSType:fsType? StoragePolicyName:? StoragePolicyID:?
v1.WeightedPodAffinityTerm Weight::int32 PodAffinityTerm::v1.PodAffinityTerm
v1.WindowsSecurityContextOptions GMSACredentialSpecName:gmsaCredentialSpecName?:*string
  GMSACredentialSpec:gmsaCredentialSpec?:*string RunAsUserName:?:*string HostProcess:?:*bool
v1.WorkloadReference Name PodGroup PodGroupReplicaKey:?
"""
