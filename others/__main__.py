"""List the tools, one line each: python -m others"""
import ast
from pathlib import Path


def tools() -> dict:
    """{name: first line of its docstring}, of the modules here that run as `python -m others.NAME`."""
    sources = {path.stem: path.read_text(encoding='utf-8')
               for path in sorted(Path(__file__).parent.glob('*.py'))}
    return {name: ast.get_docstring(ast.parse(source)).splitlines()[0]
            for name, source in sources.items() if source.endswith('cli.run(main)\n')}


if __name__ == '__main__':
    for name, line in tools().items():
        print(f'python -m others.{name:<17}  {line}')
