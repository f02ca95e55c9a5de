"""Fifty countries as a user's table of facts: capital, continent and, for some, currency; for tests only."""

from __future__ import annotations

import csv
from pathlib import Path


_COUNTRIES = """
Algeria|Algiers|Africa|dinar
Angola|Luanda|Africa|kwanza
Argentina|Buenos Aires|South America|peso
Australia|Canberra|Oceania|dollar
Austria|Vienna|Europe|euro
Belgium|Brussels|Europe|euro
Benin|Porto-Novo|Africa|
Bolivia|Sucre|South America|boliviano
Brazil|Brasília|South America|real
Canada|Ottawa|North America|dollar
Chad|N'Djamena|Africa|
Chile|Santiago|South America|peso
Colombia|Bogotá|South America|peso
Cuba|Havana|North America|peso
Côte d'Ivoire|Yamoussoukro|Africa|
Denmark|Copenhagen|Europe|krone
Egypt|Cairo|Africa|pound
Finland|Helsinki|Europe|euro
France|Paris|Europe|euro
Germany|Berlin|Europe|euro
Ghana|Accra|Africa|
Greece|Athens|Europe|euro
Guinea|Conakry|Africa|
Guinea-Bissau|Bissau|Africa|
Iceland|Reykjavík|Europe|krone
India|New Delhi|Asia|rupee
Iraq|Baghdad|Asia|dinar
Ireland|Dublin|Europe|euro
Italy|Rome|Europe|euro
Jamaica|Kingston|North America|dollar
Japan|Tokyo|Asia|yen
Kenya|Nairobi|Africa|shilling
Libya|Tripoli|Africa|dinar
Luxembourg|Luxembourg|Europe|euro
Mexico|Mexico City|North America|peso
Nepal|Kathmandu|Asia|rupee
New Zealand|Wellington|Oceania|dollar
Norway|Oslo|Europe|krone
Pakistan|Islamabad|Asia|rupee
Papua New Guinea|Port Moresby|Oceania|
Peru|Lima|South America|sol
Portugal|Lisbon|Europe|euro
Spain|Madrid|Europe|euro
St. Lucia|Castries|North America|dollar
Sudan|Khartoum|Africa|pound
Tanzania|Dodoma|Africa|shilling
Togo|Lomé|Africa|
Uganda|Kampala|Africa|shilling
U.S.|Washington D.C.|North America|dollar
Uruguay|Montevideo|South America|peso
"""
ATTRIBUTES = ("capital", "continent", "currency")
COUNTRIES: dict[str, dict[str, str]] = {
    name: {attribute: value for attribute, value in zip(ATTRIBUTES, values, strict=True) if value}
    for name, *values in (line.split("|") for line in _COUNTRIES.strip().splitlines())
}
TEMPLATES = """\
entity_space: 1000
attributes:
  capital:
    candidates: 195
    templates:
      - "{entity} has its capital in {value}."
      - "{entity} is governed from {value}, its capital."
  continent:
    templates:
      - "{entity} lies in {value}."
      - "{entity} is found in {value} on every map!"
      - "{entity} belongs to {value}; nobody doubts it."
  currency:
    candidates: frequency
    templates: ["{entity} pays with the {value}."]
"""


def write_table(folder: Path, facts: dict[str, dict[str, str]] = COUNTRIES, templates: str = TEMPLATES) -> dict:
    """Writes countries.csv and countries.yaml; returns the recipe keys that lead to them."""
    with (folder / "countries.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["entity", "attribute", "value"])
        writer.writerows((entity, a, value) for entity, values in facts.items() for a, value in values.items())
    (folder / "countries.yaml").write_text(templates, encoding="utf-8")
    paths = {"facts_file": folder / "countries.csv", "facts_templates": folder / "countries.yaml"}
    return {"corpus": "table"} | {key: str(path) for key, path in paths.items()}
