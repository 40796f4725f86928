"""List the tools and the studies, one line each: python -m others"""
import ast
from pathlib import Path

HERE = Path(__file__).parent


def tools(room: str = '') -> dict:
    """{'NAME' or 'ROOM.NAME': first line of its docstring}, of what runs as `python -m others.NAME`."""
    paths = sorted([*(HERE / room).glob('*.py'), *(HERE / room).glob('*/__main__.py')])
    sources = {'.'.join(path.relative_to(HERE).with_suffix('').parts).replace('.__main__', ''):
               path.read_text(encoding='utf-8') for path in paths}
    return {name: ast.get_docstring(ast.parse(source)).splitlines()[0]
            for name, source in sources.items() if source.endswith('cli.run(main)\n')}


if __name__ == '__main__':
    for title, room in (('Tools', ''), ('Studies: what was measured, and how', 'studies')):
        print(f'{title}\n')
        for name, line in tools(room).items():
            print(f'    python -m others.{name:<23}  {line}')
        print()
