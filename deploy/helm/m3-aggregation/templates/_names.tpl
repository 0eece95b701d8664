{{- define "m3.name" -}}{{ .Release.Name }}-{{ .service }}{{- end -}}
{{- define "m3.labels" -}}
app.kubernetes.io/name: {{ .service }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
