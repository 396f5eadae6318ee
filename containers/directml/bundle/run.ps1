# Measure the model beside this script by DirectML; writes result.json. The venv is made once.
#   powershell -ExecutionPolicy Bypass -File run.ps1
$ErrorActionPreference = 'Stop'
$venv = Join-Path $PSScriptRoot 'venv'
& (Join-Path $PSScriptRoot 'install.ps1') -Venv $venv -Lock (Join-Path $PSScriptRoot 'requirements.lock')

$env:HF_HUB_OFFLINE = '1'
$env:ORT_DISABLE_TELEMETRY = '1'
Set-Location $PSScriptRoot  # the program lies beside this script
& (Join-Path $venv 'Scripts\python.exe') -m onnxmake.model.bundled .
exit $LASTEXITCODE
