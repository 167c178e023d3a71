"""The fields of Istio's MeshConfig and ProxyConfig, and of all messages in them.

One message to an entry, with its fields in the order of their numbers: ``name:type``, where
the name is the one in JSON and a type that is absent is string. ``name!choice`` is a field
of a oneof. ``=`` begins an enum, ``*`` a message, ``%`` stands for ``map[string]``; ``pb.``
is google.protobuf. Sources: istio.io/api v1.30.3, and the mesh configuration of Istio 1.0.
"""

ISTIO_1_30 = """
Certificate secretName dnsNames:[]string
ConfigSource address tlsSettings:*net.ClientTLSSettings subscribedResources:[]=Resource
LabelSelector matchLabels:%string matchExpressions:[]*LabelSelectorRequirement
LabelSelectorRequirement key operator values:[]string
MeshConfig proxyListenPort:int32 proxyHttpPort:int32 connectTimeout:*pb.Duration ingressClass
  ingressService ingressControllerMode:=MeshConfig.IngressControllerMode enableTracing:bool
  accessLogFile defaultConfig:*ProxyConfig outboundTrafficPolicy:*MeshConfig.OutboundTrafficPolicy
  configSources:[]*ConfigSource accessLogFormat trustDomain
  accessLogEncoding:=MeshConfig.AccessLogEncoding
  tcpKeepalive:*net.ConnectionPoolSettings.TCPSettings.TcpKeepalive
  defaultServiceExportTo:[]string defaultVirtualServiceExportTo:[]string
  defaultDestinationRuleExportTo:[]string rootNamespace
  localityLbSetting:*net.LocalityLoadBalancerSetting dnsRefreshRate:*pb.Duration
  enableEnvoyAccessLogService:bool h2UpgradePolicy:=MeshConfig.H2UpgradePolicy
  protocolDetectionTimeout:*pb.Duration enableAutoMtls:*pb.BoolValue inboundClusterStatName
  outboundClusterStatName trustDomainAliases:[]string certificates:[]*Certificate
  serviceSettings:[]*MeshConfig.ServiceSettings enablePrometheusMerge:*pb.BoolValue
  ingressSelector verifyCertificateAtClient:*pb.BoolValue ca:*MeshConfig.CA
  disableEnvoyListenerLog:bool extensionProviders:[]*MeshConfig.ExtensionProvider
  caCertificates:[]*MeshConfig.CertificateData discoverySelectors:[]*LabelSelector
  defaultProviders:*MeshConfig.DefaultProviders
  pathNormalization:*MeshConfig.ProxyPathNormalization defaultHttpRetryPolicy:*net.HTTPRetry
  meshMTLS:*MeshConfig.TLSConfig tlsDefaults:*MeshConfig.TLSConfig proxyInboundListenPort:int32
  inboundTrafficPolicy:*MeshConfig.InboundTrafficPolicy
  serviceScopeConfigs:[]*MeshConfig.ServiceScopeConfigs hboneIdleTimeout:*pb.Duration
MeshConfig.CA address tlsSettings:*net.ClientTLSSettings requestTimeout:*pb.Duration
  istiodSide:bool
MeshConfig.CertificateData pem!certificate_data spiffeBundleUrl!certificate_data
  certSigners:[]string trustDomains:[]string
MeshConfig.DefaultProviders tracing:[]string metrics:[]string accessLogging:[]string
MeshConfig.ExtensionProvider name
  envoyExtAuthzHttp!provider:*MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationHttpProvider
  envoyExtAuthzGrpc!provider:*MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationGrpcProvider
  zipkin!provider:*MeshConfig.ExtensionProvider.ZipkinTracingProvider
  lightstep!provider:*MeshConfig.ExtensionProvider.LightstepTracingProvider
  datadog!provider:*MeshConfig.ExtensionProvider.DatadogTracingProvider
  stackdriver!provider:*MeshConfig.ExtensionProvider.StackdriverProvider
  opencensus!provider:*MeshConfig.ExtensionProvider.OpenCensusAgentTracingProvider
  skywalking!provider:*MeshConfig.ExtensionProvider.SkyWalkingTracingProvider
  prometheus!provider:*MeshConfig.ExtensionProvider.PrometheusMetricsProvider
  envoyFileAccessLog!provider:*MeshConfig.ExtensionProvider.EnvoyFileAccessLogProvider
  envoyHttpAls!provider:*MeshConfig.ExtensionProvider.EnvoyHttpGrpcV3LogProvider
  envoyTcpAls!provider:*MeshConfig.ExtensionProvider.EnvoyTcpGrpcV3LogProvider
  envoyOtelAls!provider:*MeshConfig.ExtensionProvider.EnvoyOpenTelemetryLogProvider
  opentelemetry!provider:*MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider
  sds!provider:*MeshConfig.ExtensionProvider.SDSProvider
MeshConfig.ExtensionProvider.DatadogTracingProvider service port:uint32 maxTagLength:uint32
MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationGrpcProvider service port:uint32
  failOpen:bool statusOnError timeout:*pb.Duration
  includeRequestBodyInCheck:*MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationRequestBody
  clearRouteCache:bool
MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationHttpProvider service port:uint32 pathPrefix
  failOpen:bool statusOnError includeHeadersInCheck:[]string headersToUpstreamOnAllow:[]string
  headersToDownstreamOnDeny:[]string timeout:*pb.Duration includeRequestHeadersInCheck:[]string
  includeAdditionalHeadersInCheck:%string
  includeRequestBodyInCheck:*MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationRequestBody
  headersToDownstreamOnAllow:[]string clearRouteCache:bool
MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationRequestBody maxRequestBytes:uint32
  allowPartialMessage:bool packAsBytes:bool
MeshConfig.ExtensionProvider.EnvoyFileAccessLogProvider path
  logFormat:*MeshConfig.ExtensionProvider.EnvoyFileAccessLogProvider.LogFormat
  omitEmptyValues:bool
MeshConfig.ExtensionProvider.EnvoyFileAccessLogProvider.LogFormat text!log_format
  labels!log_format:*pb.Struct
MeshConfig.ExtensionProvider.EnvoyHttpGrpcV3LogProvider service port:uint32 logName
  filterStateObjectsToLog:[]string additionalRequestHeadersToLog:[]string
  additionalResponseHeadersToLog:[]string additionalResponseTrailersToLog:[]string
MeshConfig.ExtensionProvider.EnvoyOpenTelemetryLogProvider service port:uint32 logName
  logFormat:*MeshConfig.ExtensionProvider.EnvoyOpenTelemetryLogProvider.LogFormat
MeshConfig.ExtensionProvider.EnvoyOpenTelemetryLogProvider.LogFormat text labels:*pb.Struct
MeshConfig.ExtensionProvider.EnvoyTcpGrpcV3LogProvider service port:uint32 logName
  filterStateObjectsToLog:[]string
MeshConfig.ExtensionProvider.GrpcService timeout:*pb.Duration
  initialMetadata:[]*MeshConfig.ExtensionProvider.HttpHeader
MeshConfig.ExtensionProvider.HttpHeader name value!header_value envName!header_value
MeshConfig.ExtensionProvider.HttpService path timeout:*pb.Duration
  headers:[]*MeshConfig.ExtensionProvider.HttpHeader
MeshConfig.ExtensionProvider.LightstepTracingProvider service port:uint32 accessToken
  maxTagLength:uint32
MeshConfig.ExtensionProvider.OpenCensusAgentTracingProvider service port:uint32
  context:[]=MeshConfig.ExtensionProvider.OpenCensusAgentTracingProvider.TraceContext
  maxTagLength:uint32
MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider service port:uint32 maxTagLength:uint32
  http:*MeshConfig.ExtensionProvider.HttpService
  resourceDetectors:*MeshConfig.ExtensionProvider.ResourceDetectors
  dynatraceSampler!sampling:*MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.DynatraceSampler
  grpc:*MeshConfig.ExtensionProvider.GrpcService
  serviceAttributeEnrichment:=MeshConfig.ExtensionProvider.ServiceAttributeEnrichment
MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.DynatraceSampler tenant clusterId:int32
  rootSpansPerMinute:uint32
  httpService:*MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.DynatraceSampler.DynatraceApi
MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.DynatraceSampler.DynatraceApi service
  port:uint32 http:*MeshConfig.ExtensionProvider.HttpService
MeshConfig.ExtensionProvider.PrometheusMetricsProvider
MeshConfig.ExtensionProvider.ResourceDetectors
  environment:*MeshConfig.ExtensionProvider.ResourceDetectors.EnvironmentResourceDetector
  dynatrace:*MeshConfig.ExtensionProvider.ResourceDetectors.DynatraceResourceDetector
MeshConfig.ExtensionProvider.ResourceDetectors.DynatraceResourceDetector
MeshConfig.ExtensionProvider.ResourceDetectors.EnvironmentResourceDetector
MeshConfig.ExtensionProvider.SDSProvider name service port:uint32
MeshConfig.ExtensionProvider.SkyWalkingTracingProvider service port:uint32 accessToken
MeshConfig.ExtensionProvider.StackdriverProvider debug:bool maxNumberOfAttributes:*pb.Int64Value
  maxNumberOfAnnotations:*pb.Int64Value maxNumberOfMessageEvents:*pb.Int64Value
  maxTagLength:uint32 logging:*MeshConfig.ExtensionProvider.StackdriverProvider.Logging
MeshConfig.ExtensionProvider.StackdriverProvider.Logging labels:%string
MeshConfig.ExtensionProvider.ZipkinTracingProvider service port:uint32 maxTagLength:uint32
  enable64bitTraceId:bool path
  traceContextOption:=MeshConfig.ExtensionProvider.ZipkinTracingProvider.TraceContextOption
  timeout:*pb.Duration headers:[]*MeshConfig.ExtensionProvider.HttpHeader
MeshConfig.InboundTrafficPolicy mode:=MeshConfig.InboundTrafficPolicy.Mode
MeshConfig.OutboundTrafficPolicy mode:=MeshConfig.OutboundTrafficPolicy.Mode
  tls:*net.ClientTLSSettings
MeshConfig.ProxyPathNormalization
  normalization:=MeshConfig.ProxyPathNormalization.NormalizationType
MeshConfig.ServiceScopeConfigs namespaceSelector:*LabelSelector servicesSelector:*LabelSelector
  scope:=MeshConfig.ServiceScopeConfigs.Scope
MeshConfig.ServiceSettings settings:*MeshConfig.ServiceSettings.Settings hosts:[]string
MeshConfig.ServiceSettings.Settings clusterLocal:bool
MeshConfig.TLSConfig minProtocolVersion:=MeshConfig.TLSConfig.TLSProtocol ecdhCurves:[]string
  cipherSuites:[]string
PrivateKeyProvider cryptomb!provider:*PrivateKeyProvider.CryptoMb
  qat!provider:*PrivateKeyProvider.QAT
PrivateKeyProvider.CryptoMb pollDelay:*pb.Duration fallback:*pb.BoolValue
PrivateKeyProvider.QAT pollDelay:*pb.Duration fallback:*pb.BoolValue
ProxyConfig configPath binaryPath serviceCluster!cluster_name drainDuration:*pb.Duration
  discoveryAddress discoveryRefreshDelay:*pb.Duration zipkinAddress statsdUdpAddress
  proxyAdminPort:int32 availabilityZone controlPlaneAuthPolicy:=AuthenticationPolicy
  customConfigFile statNameLength:int32 concurrency:*pb.Int32Value proxyBootstrapTemplatePath
  interceptionMode:=ProxyConfig.InboundInterceptionMode tracing:*Tracing
  envoyMetricsServiceAddress sds:*SDS envoyAccessLogService:*RemoteService
  envoyMetricsService:*RemoteService proxyMetadata:%string statusPort:int32 extraStatTags:[]string
  gatewayTopology:*Topology terminationDrainDuration:*pb.Duration meshId
  readinessProbe:*net.ReadinessProbe proxyStatsMatcher:*ProxyConfig.ProxyStatsMatcher
  holdApplicationUntilProxyStarts:*pb.BoolValue caCertificatesPem:[]string image:*net1.ProxyImage
  tracingServiceName!cluster_name:=ProxyConfig.TracingServiceName runtimeValues:%string
  privateKeyProvider:*PrivateKeyProvider proxyHeaders:*ProxyConfig.ProxyHeaders
  fileFlushInterval:*pb.Duration fileFlushMinSizeKb:uint32 statsCompression:*pb.BoolValue
ProxyConfig.ProxyHeaders forwardedClientCert:=ForwardClientCertDetails
  server:*ProxyConfig.ProxyHeaders.Server requestId:*ProxyConfig.ProxyHeaders.RequestId
  attemptCount:*ProxyConfig.ProxyHeaders.AttemptCount
  envoyDebugHeaders:*ProxyConfig.ProxyHeaders.EnvoyDebugHeaders
  metadataExchangeHeaders:*ProxyConfig.ProxyHeaders.MetadataExchangeHeaders
  setCurrentClientCertDetails:*ProxyConfig.ProxyHeaders.SetCurrentClientCertDetails
  preserveHttp1HeaderCase:*pb.BoolValue xForwardedHost:*ProxyConfig.ProxyHeaders.XForwardedHost
  xForwardedPort:*ProxyConfig.ProxyHeaders.XForwardedPort
ProxyConfig.ProxyHeaders.AttemptCount disabled:*pb.BoolValue
ProxyConfig.ProxyHeaders.EnvoyDebugHeaders disabled:*pb.BoolValue
ProxyConfig.ProxyHeaders.MetadataExchangeHeaders
  mode:=ProxyConfig.ProxyHeaders.MetadataExchangeMode
ProxyConfig.ProxyHeaders.RequestId disabled:*pb.BoolValue
ProxyConfig.ProxyHeaders.Server disabled:*pb.BoolValue value
ProxyConfig.ProxyHeaders.SetCurrentClientCertDetails subject:*pb.BoolValue cert:*pb.BoolValue
  chain:*pb.BoolValue dns:*pb.BoolValue uri:*pb.BoolValue
ProxyConfig.ProxyHeaders.XForwardedHost enabled:*pb.BoolValue
ProxyConfig.ProxyHeaders.XForwardedPort enabled:*pb.BoolValue
ProxyConfig.ProxyStatsMatcher inclusionPrefixes:[]string inclusionSuffixes:[]string
  inclusionRegexps:[]string
RemoteService address tlsSettings:*net.ClientTLSSettings
  tcpKeepalive:*net.ConnectionPoolSettings.TCPSettings.TcpKeepalive
SDS enabled:bool k8sSaJwtPath
Topology numTrustedProxies:uint32 forwardClientCertDetails:=ForwardClientCertDetails
  proxyProtocol:*Topology.ProxyProtocolConfiguration
Topology.ProxyProtocolConfiguration
Tracing zipkin!tracer:*Tracing.Zipkin lightstep!tracer:*Tracing.Lightstep
  datadog!tracer:*Tracing.Datadog stackdriver!tracer:*Tracing.Stackdriver
  customTags:%*Tracing.CustomTag maxPathTagLength:uint32 sampling:double
  tlsSettings:*net.ClientTLSSettings openCensusAgent!tracer:*Tracing.OpenCensusAgent
  enableIstioTags:*pb.BoolValue
Tracing.CustomTag literal!type:*Tracing.Literal environment!type:*Tracing.Environment
  header!type:*Tracing.RequestHeader
Tracing.Datadog address
Tracing.Environment name defaultValue
Tracing.Lightstep address accessToken
Tracing.Literal value
Tracing.OpenCensusAgent address context:[]=Tracing.OpenCensusAgent.TraceContext
Tracing.RequestHeader name defaultValue
Tracing.Stackdriver debug:bool maxNumberOfAttributes:*pb.Int64Value
  maxNumberOfAnnotations:*pb.Int64Value maxNumberOfMessageEvents:*pb.Int64Value
Tracing.Zipkin address
net.ClientTLSSettings mode:=net.ClientTLSSettings.TLSmode clientCertificate privateKey
  caCertificates subjectAltNames:[]string sni credentialName insecureSkipVerify:*pb.BoolValue
  caCrl
net.ConnectionPoolSettings.TCPSettings.TcpKeepalive probes:uint32 time:*pb.Duration
  interval:*pb.Duration
net.ExecHealthCheckConfig command:[]string
net.GrpcHealthCheckConfig port:uint32 service
net.HTTPHeader name value
net.HTTPHealthCheckConfig path port:uint32 host scheme httpHeaders:[]*net.HTTPHeader
net.HTTPRetry attempts:int32 perTryTimeout:*pb.Duration retryOn
  retryRemoteLocalities:*pb.BoolValue retryIgnorePreviousHosts:*pb.BoolValue backoff:*pb.Duration
net.LocalityLoadBalancerSetting distribute:[]*net.LocalityLoadBalancerSetting.Distribute
  failover:[]*net.LocalityLoadBalancerSetting.Failover enabled:*pb.BoolValue
  failoverPriority:[]string
net.LocalityLoadBalancerSetting.Distribute from to:%uint32
net.LocalityLoadBalancerSetting.Failover from to
net.ReadinessProbe initialDelaySeconds:int32 timeoutSeconds:int32 periodSeconds:int32
  successThreshold:int32 failureThreshold:int32
  httpGet!health_check_method:*net.HTTPHealthCheckConfig
  tcpSocket!health_check_method:*net.TCPHealthCheckConfig
  exec!health_check_method:*net.ExecHealthCheckConfig
  grpc!health_check_method:*net.GrpcHealthCheckConfig
net.TCPHealthCheckConfig host port:uint32
net1.ProxyImage imageType
=AuthenticationPolicy NONE=0 MUTUAL_TLS=1 INHERIT=1000
=ForwardClientCertDetails UNDEFINED=0 SANITIZE=1 FORWARD_ONLY=2 APPEND_FORWARD=3 SANITIZE_SET=4
  ALWAYS_FORWARD_ONLY=5
=MeshConfig.AccessLogEncoding TEXT=0 JSON=1
=MeshConfig.ExtensionProvider.OpenCensusAgentTracingProvider.TraceContext UNSPECIFIED=0
  W3C_TRACE_CONTEXT=1 GRPC_BIN=2 CLOUD_TRACE_CONTEXT=3 B3=4
=MeshConfig.ExtensionProvider.ServiceAttributeEnrichment ISTIO_CANONICAL=0
  OTEL_SEMANTIC_CONVENTIONS=1
=MeshConfig.ExtensionProvider.ZipkinTracingProvider.TraceContextOption USE_B3=0
  USE_B3_WITH_W3C_PROPAGATION=1
=MeshConfig.H2UpgradePolicy DO_NOT_UPGRADE=0 UPGRADE=1
=MeshConfig.InboundTrafficPolicy.Mode PASSTHROUGH=0 LOCALHOST=1
=MeshConfig.IngressControllerMode UNSPECIFIED=0 OFF=1 DEFAULT=2 STRICT=3
=MeshConfig.OutboundTrafficPolicy.Mode REGISTRY_ONLY=0 ALLOW_ANY=1 ALLOW_ANY_DYNAMIC_DNS=3
=MeshConfig.ProxyPathNormalization.NormalizationType DEFAULT=0 NONE=1 BASE=2 MERGE_SLASHES=3
  DECODE_AND_MERGE_SLASHES=4
=MeshConfig.ServiceScopeConfigs.Scope LOCAL=0 GLOBAL=1
=MeshConfig.TLSConfig.TLSProtocol TLS_AUTO=0 TLSV1_2=1 TLSV1_3=2
=ProxyConfig.InboundInterceptionMode REDIRECT=0 TPROXY=1 NONE=2
=ProxyConfig.ProxyHeaders.MetadataExchangeMode UNDEFINED=0 IN_MESH=1
=ProxyConfig.TracingServiceName APP_LABEL_AND_NAMESPACE=0 CANONICAL_NAME_ONLY=1
  CANONICAL_NAME_AND_NAMESPACE=2
=Resource SERVICE_REGISTRY=0
=Tracing.OpenCensusAgent.TraceContext UNSPECIFIED=0 W3C_TRACE_CONTEXT=1 GRPC_BIN=2
  CLOUD_TRACE_CONTEXT=3 B3=4
=net.ClientTLSSettings.TLSmode DISABLE=0 SIMPLE=1 MUTUAL=2 ISTIO_MUTUAL=3
"""

ISTIO_1_0 = """
ProxyConfig configPath binaryPath serviceCluster drainDuration:*pb.Duration
  parentShutdownDuration:*pb.Duration discoveryAddress discoveryRefreshDelay:*pb.Duration
  zipkinAddress connectTimeout:*pb.Duration statsdUdpAddress proxyAdminPort:int32
  availabilityZone controlPlaneAuthPolicy:=AuthenticationPolicy customConfigFile
  statNameLength:int32 concurrency:int32 proxyBootstrapTemplatePath
  interceptionMode:=ProxyConfig.InboundInterceptionMode
MeshConfig mixerCheckServer mixerReportServer disablePolicyChecks:bool policyCheckFailOpen:bool
  proxyListenPort:int32 proxyHttpPort:int32 connectTimeout:*pb.Duration ingressClass ingressService
  ingressControllerMode:=MeshConfig.IngressControllerMode authPolicy:=MeshConfig.AuthPolicy
  rdsRefreshDelay:*pb.Duration enableTracing:bool accessLogFile defaultConfig:*ProxyConfig
  outboundTrafficPolicy:*MeshConfig.OutboundTrafficPolicy enableClientSidePolicyCheck:bool
  sdsUdsPath sdsRefreshDelay:*pb.Duration configSources:[]*ConfigSource
MeshConfig.OutboundTrafficPolicy mode:=MeshConfig.OutboundTrafficPolicy.Mode
ConfigSource address
=AuthenticationPolicy NONE=0 MUTUAL_TLS=1 INHERIT=1000
=MeshConfig.AuthPolicy NONE=0 MUTUAL_TLS=1
=MeshConfig.IngressControllerMode OFF=0 DEFAULT=1 STRICT=2
=MeshConfig.OutboundTrafficPolicy.Mode REGISTRY_ONLY=0 ALLOW_ANY=1
=ProxyConfig.InboundInterceptionMode REDIRECT=0 TPROXY=1
"""
